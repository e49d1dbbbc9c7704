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
import pickle
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields
from functools import lru_cache, partial
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.packing import Blocks, PackCounts, PackingRules, split_counts, whole_counts
from titan_speech.store.derived_cache import MIN_ITEMS, derived_array, derived_folder, key_of
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
    """[G, C]; num_packs of a SplitStream, which is a fraction, is rounded down."""
    rows: list[list[int]] = []
    for counts in _with_progress(_count_runs(blocks, rules, whole), blocks, name):
        rows += [[int(getattr(count, column)) for column in COLUMNS] for count in counts]
    return np.array(rows, np.int64).reshape(-1, len(COLUMNS))


def _count_runs(blocks: Blocks, rules: PackingRules, whole: bool) -> Iterator[list[PackCounts]]:
    """Counts of runs of blocks, in order; on all cores if there are many documents."""
    firsts = range(0, blocks.num_blocks, BLOCKS_PER_TASK)
    runs = [range(first, min(first + BLOCKS_PER_TASK, blocks.num_blocks)) for first in firsts]
    num_processes = len(os.sched_getaffinity(0))
    if not whole or num_processes == 1 or sum(blocks.sizes) < MIN_PARALLEL_DOCUMENTS:
        yield from (_count_run(blocks, rules, whole, run) for run in runs)
        return
    for docs in blocks.documents:
        docs.lengths(0, 1)  # writes the cached arrays, which the processes then map
    count = partial(_count_pickled, pickle.dumps((blocks, rules, whole)))
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        yield from pool.map(count, runs)


def _count_run(blocks: Blocks, rules: PackingRules, whole: bool, run: range) -> list[PackCounts]:
    return (whole_counts if whole else split_counts)(blocks, rules, run)


def _count_pickled(job: bytes, run: range) -> list[PackCounts]:
    """As `_count_run`, in a worker process, with its other arguments pickled."""
    return _count_run(*_unpickle(job), run)


@lru_cache(maxsize=1)
def _unpickle(job: bytes) -> tuple[Blocks, PackingRules, bool]:
    """Once per process: opening the parts takes longer than counting a run of blocks."""
    return pickle.loads(job)  # noqa: S301  (made by the parent process, in memory)


def _with_progress(runs: Iterable[list[PackCounts]], blocks: Blocks, name: str) -> Iterator[list[PackCounts]]:
    """The runs; progress is printed if they take long."""
    num_samples = sum(blocks.sizes)
    with Progress(f"{name}: counting packs, once", num_samples, "samples") as progress:
        for counts in runs:
            yield counts
            progress.add(num_samples * len(counts) / blocks.num_blocks)
