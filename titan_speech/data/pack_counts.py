"""What each block of a stream holds: its tokens, and how many packs it fills.

In: blocks and packing rules. Out: the `PackCounts` of every block; any slot is then found without reading a length.

Counting the packs of whole samples packs each sample once. Above 2^17 samples the counts are therefore cached next to
the store (store/derived_cache.py) under a key of all that they depend on: the parts' files, the held-out samples, the
task and its settings, the rules and the blocks. Above 2^21 samples all cores count, and progress is printed. Later
plans read 64 bytes per block, 1.2 MB for 80 M samples.

Shapes: G blocks, C columns of `COLUMNS`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.packing import Blocks, PackCounts, PackingRules, split_counts, whole_counts
from titan_speech.store.derived_cache import MIN_ITEMS, derived_array, derived_folder, key_of
from titan_speech.utils.process_pool import Advance, run_tasks
from titan_speech.utils.progress import Progress

COUNTS_VERSION = 1  # raised when the same lengths would give other counts, or the columns change
COLUMNS = tuple(field.name for field in fields(PackCounts))
MIN_PARALLEL_DOCUMENTS = 1 << 21
BLOCKS_PER_TASK = 32


def count_packs(blocks: Blocks, rules: PackingRules, *, whole: bool, name: str = "stream") -> list[PackCounts]:
    """Counts of every block, from the cache of the store if there are many samples.

    Args:
        blocks: of the stream.
        rules: how packs are filled.
        whole: whether documents stay whole (WholeStream) or not (SplitStream).
        name: of the stream, for progress.
    """
    if sum(blocks.sizes) < MIN_ITEMS:
        return _count_run(blocks, rules, whole, range(blocks.num_blocks))
    key = key_of(
        COUNTS_VERSION, [docs.key for docs in blocks.documents], blocks.sizes, blocks.num_blocks, asdict(rules), whole
    )
    folder = derived_folder(blocks.documents[0].part.place)
    count_GC = derived_array(folder, key, lambda: _count_all(blocks, rules, whole, name))
    return [_from_row(row, rules, whole) for row in count_GC.tolist()]


def _from_row(row: list[int], rules: PackingRules, whole: bool) -> PackCounts:
    columns: dict[str, float] = dict(zip(COLUMNS, row, strict=True))
    if not whole:
        columns["num_packs"] = columns["num_tokens"] / rules.seq_len
    return PackCounts(**columns)  # pyright: ignore[reportArgumentType]  (all but num_packs are integers)


def _count_all(blocks: Blocks, rules: PackingRules, whole: bool, name: str) -> NDArray[np.int64]:
    """[G, C]; num_packs of a SplitStream, which is a fraction, is rounded down. Prints progress if it takes long."""
    num_samples, num_processes = sum(blocks.sizes), len(os.sched_getaffinity(0))
    if not whole or num_samples < MIN_PARALLEL_DOCUMENTS:
        num_processes = 1
    if num_processes > 1:
        for docs in blocks.documents:
            docs.lengths(0, 1)  # writes the cached arrays, which the processes then map
    firsts = range(0, blocks.num_blocks, BLOCKS_PER_TASK)
    runs = [range(first, min(first + BLOCKS_PER_TASK, blocks.num_blocks)) for first in firsts]
    with Progress(f"{name}: counting packs, once", num_samples, "samples") as progress:
        found = run_tasks(
            _CountRun(blocks, rules, whole), runs, num_processes, lambda counts, _: progress.update(counts[:, 0].sum())
        )
    rows = [[int(getattr(counts, column)) for column in COLUMNS] for some in found for counts in some]
    return np.array(rows, np.int64).reshape(-1, len(COLUMNS))


@dataclass(frozen=True)
class _CountRun:
    """In a worker process: counts a run of blocks."""

    blocks: Blocks
    rules: PackingRules
    whole: bool

    def __call__(self, run: range, advance: Advance) -> list[PackCounts]:
        counts = _count_run(self.blocks, self.rules, self.whole, run)
        advance(sum(map(self.blocks.num_samples, run)), 0)
        return counts


def _count_run(blocks: Blocks, rules: PackingRules, whole: bool, run: range) -> list[PackCounts]:
    count = whole_counts if whole else split_counts
    return [count(blocks, k, rules) for k in run]
