"""What each group of a stream holds: its tokens, and how many packs it fills.

In: groups and packing rules. Out: `Counts` of every group, from which any slot is found without reading a length.

Counting the packs of whole samples packs each once. Above 2^17 samples the counts are therefore kept beside the store
(store/derived.py) under a key of all that they depend on: the parts' files, the samples held out, the task and its
settings, the rules and the groups. Above 2^21 they are counted by all cores, and the log says how far they are. Later
plans read 64 bytes a group, 1.2 MB for 80 M samples.

Shapes: G groups, C columns of `COLUMNS`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.packing import Blocks, PackCounts, PackingRules, split_counts, whole_counts
from titan_speech.store.derived_cache import MIN_ITEMS, derived_array, derived_folder, key_of

logger = logging.getLogger(__name__)

COUNTS_VERSION = 1  # raised whenever the same lengths would give other counts
COLUMNS = (
    *("num_documents", "num_tokens", "num_packs", "num_unusable", "num_dropped", "num_split"),
    *("num_usable_tokens", "longest"),
)
NUM_PACKS = COLUMNS.index("num_packs")
MIN_PARALLEL_DOCUMENTS = 1 << 21
BLOCKS_PER_TASK = 32
REPORT_SEC = 10.0


def count_packs(groups: Blocks, rules: PackingRules, *, whole: bool, name: str = "stream") -> list[PackCounts]:
    """Counts of every group for a WholeStream (`whole`) or a SplitStream."""
    if sum(groups.sizes) < MIN_ITEMS:
        return _count(groups, rules, whole, range(groups.num_groups))
    key = key_of(
        COUNTS_VERSION, [docs.key for docs in groups.documents], groups.sizes, groups.num_groups, asdict(rules), whole
    )
    folder = derived_folder(groups.documents[0].part.place)
    table_GC = derived_array(folder, key, lambda: _table(groups, rules, whole, name))
    return [_counts(row, rules, whole) for row in table_GC.tolist()]


def _counts(row: list[int], rules: PackingRules, whole: bool) -> PackCounts:
    columns: dict[str, float] = dict(zip(COLUMNS, row, strict=True))
    if not whole:
        columns["num_packs"] = columns["num_tokens"] / rules.seq_len
    return PackCounts(**columns)  # pyright: ignore[reportArgumentType]  (all but num_packs are integers)


def _table(groups: Blocks, rules: PackingRules, whole: bool, name: str) -> NDArray[np.int64]:
    rows: list[list[int]] = []
    for counts in _reported(_tasks(groups, rules, whole), groups, name):
        rows += [[int(getattr(count, column)) for column in COLUMNS] for count in counts]
    return np.array(rows, np.int64).reshape(-1, len(COLUMNS))


def _tasks(groups: Blocks, rules: PackingRules, whole: bool) -> Iterator[list[PackCounts]]:
    """Counts of runs of groups, in order."""
    runs = [
        range(first, min(first + BLOCKS_PER_TASK, groups.num_groups))
        for first in range(0, groups.num_groups, BLOCKS_PER_TASK)
    ]
    num_processes = len(os.sched_getaffinity(0))
    if not whole or num_processes == 1 or sum(groups.sizes) < MIN_PARALLEL_DOCUMENTS:
        yield from (_count(groups, rules, whole, run) for run in runs)
        return
    for docs in groups.documents:
        docs.lengths(0, 1)  # makes the arrays that the processes then map
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _set_task, (groups, rules, whole)) as pool:
        yield from pool.map(_count_run, runs)


def _count(groups: Blocks, rules: PackingRules, whole: bool, run: range) -> list[PackCounts]:
    return (whole_counts if whole else split_counts)(groups, rules, run)


_task: tuple[Blocks, PackingRules, bool]


def _set_task(*task: object) -> None:
    """Once in each process: opening the parts takes longer than a run of groups."""
    global _task
    _task = task  # type: ignore[assignment]


def _count_run(run: range) -> list[PackCounts]:
    return _count(*_task, run)


def _reported(runs: Iterable[list[PackCounts]], groups: Blocks, name: str) -> Iterator[list[PackCounts]]:
    """Says how far it is, if it takes long."""
    began = told = time.monotonic()
    num_done, total = 0, sum(groups.sizes)
    for counts in runs:
        yield counts
        num_done += len(counts)
        now = time.monotonic()
        if now - told > REPORT_SEC:
            told, done = now, num_done / groups.num_groups
            left_sec = (now - began) * (1 - done) / done
            logger.info(
                "%s: packs counted of %s of %s samples, %.0f s left",
                name,
                f"{int(done * total):,}",
                f"{total:,}",
                left_sec,
            )
    spent_sec = time.monotonic() - began
    if spent_sec > REPORT_SEC / 2:
        logger.info("%s: packs of %s samples counted once in %.0f s", name, f"{total:,}", spent_sec)
