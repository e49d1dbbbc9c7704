"""Checks over all samples of a store: duplicate ids, segment orders that contradict start times, part names that differ
in case alone.

In: the runs of all parts. Out: problems. Samples are compared by 64-bit hash, one range of hashes after another, so
memory is bounded: 4 M hashes at a time (below 400 MB), whatever the size of the store. Where hashes are equal, the
samples themselves are looked up: two ids may share a hash, two samples may not share an id.

Shapes: N entries of one range of hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from titan_speech.store.external_sort import SortedRun
from titan_speech.store.problems import Problem, ProblemGroup, Problems
from titan_speech.store.shard_writer import key_slice

MAX_ENTRIES = 1 << 22
MAX_LOOKED_UP = 1000
SAME_START_SEC = 0.02
"""One code: two channels may have one number, and their times may be rounded."""
_ORDER = "segment order"

Where = tuple[SortedRun, int]
"""A run and a row of it."""


def find_conflicts(runs: Sequence[SortedRun], problems: Problems) -> None:
    """Adds all conflicts to `problems`."""
    if not runs or _find_case_conflicts(runs, problems):
        return
    for first, last in _ranges(sum(run.num_samples for run in runs)):
        _find_duplicates(runs, first, last, problems)
    for first, last in _ranges(sum(len(run.segments()) for run in runs)):
        _find_contradictions(runs, first, last, problems)


def _find_case_conflicts(runs: Sequence[SortedRun], problems: Problems) -> bool:
    """Whether folders of two parts differ in case alone: file systems of macOS and Windows ignore case."""
    folders: dict[str, list[str]] = {}
    for name in sorted({run.key.folder for run in runs}):
        folders.setdefault(name.casefold(), []).append(name)
    twins = [names for names in folders.values() if len(names) > 1]
    for first, second, *_ in twins:
        line = (
            f"parts {first} and {second} differ in case alone and would be one folder where file systems ignore case: "
            "write dataset_source and language in one way"
        )
        problems.merge({"part names": ProblemGroup(line, 1, "parts")})
    return bool(twins)


def _ranges(num_entries: int) -> Iterator[tuple[int, int]]:
    num_ranges = max(1, -(-num_entries // MAX_ENTRIES))
    borders = [(index << 64) // num_ranges for index in range(num_ranges + 1)]
    for first, following in pairwise(borders):
        yield first, following - 1


def _find_duplicates(runs: Sequence[SortedRun], first: int, last: int, problems: Problems) -> None:
    slices = [(run, *key_slice(run.keys_N(), first, last)) for run in runs]
    keys_N = np.sort(np.concatenate([run.keys_N()[start:stop] for run, start, stop in slices]))
    repeats_N = keys_N[1:][keys_N[1:] == keys_N[:-1]]
    repeated = np.unique(repeats_N)
    looked_up = repeated[:MAX_LOOKED_UP]
    for key in looked_up:
        _report_duplicates(runs, int(key), problems)
    rest = len(repeats_N) - int(np.isin(repeats_N, looked_up).sum())
    if rest:
        problems.add("", Problem("duplicate", "duplicate sample_id"), rest)


def _report_duplicates(runs: Sequence[SortedRun], key: int, problems: Problems) -> None:
    """Reports samples with equal ids among those that share one key."""
    seen: dict[str, list[Where]] = {}
    for run in runs:
        start, stop = key_slice(run.keys_N(), key, key)
        ids = run.rows()["sample_id"].slice(start, stop - start).to_pylist() if stop > start else ()
        for row, sample_id in enumerate(ids, start):
            seen.setdefault(sample_id, []).append((run, row))
    for sample_id, having in seen.items():
        if len(having) > 1:
            places = list(dict.fromkeys(place for run, row in having if (place := run.place(row)) is not None))
            where = f" in {' and '.join(places[:2])}" if places else ""
            problems.add(sample_id, Problem("duplicate", f"duplicate sample_id{where}"), len(having) - 1)


def _find_contradictions(runs: Sequence[SortedRun], first: int, last: int, problems: Problems) -> None:
    """Finds segments of one recording that start before an earlier one, or elsewhere under the same number."""
    parts, owners = [], []
    for index, run in enumerate(runs):
        segments = run.segments()
        start, stop = key_slice(segments["recording"], first, last)
        parts.append(segments[start:stop])
        owners.append(np.full(stop - start, index, np.int32))
    segments_N, owner_N = np.concatenate(parts), np.concatenate(owners)
    order_N = np.lexsort((segments_N["start"], segments_N["order"], segments_N["recording"]))
    bad = np.flatnonzero(_contradicts(segments_N[order_N]))
    for later in bad[:MAX_LOOKED_UP].tolist():
        before, after = order_N[later : later + 2].tolist()
        _report_contradiction(
            (runs[int(owner_N[before])], int(segments_N["row"][before])),
            (runs[int(owner_N[after])], int(segments_N["row"][after])),
            problems,
        )
    if len(bad) > MAX_LOOKED_UP:
        problems.add("", Problem(_ORDER, "segment_order contradicts start_time"), len(bad) - MAX_LOOKED_UP)


def _contradicts(sorted_N: NDArray) -> NDArray[np.bool_]:
    """Whether segment i + 1 starts before segment i of the same recording, or elsewhere under the same number."""
    before, after = sorted_N[:-1], sorted_N[1:]
    same = before["recording"] == after["recording"]
    is_twice = (before["order"] == after["order"]) & (after["start"] - before["start"] > SAME_START_SEC)
    return same & (is_twice | (before["order"] < after["order"]) & (before["start"] > after["start"]))


def _report_contradiction(before: Where, after: Where, problems: Problems) -> None:
    first, second = (run.rows().slice(row, 1).to_pylist()[0] for run, row in (before, after))
    if first["source_video_id"] != second["source_video_id"]:
        return  # two recordings of one hash
    first_place, second_place = (run.place(row) for run, row in (before, after))
    other = f"{first['sample_id']!r}" + (f" of {first_place}" if first_place else "")
    begins = f"segment_order {second['segment_order']} of source_video_id {second['source_video_id']!r} starts at "
    if first["segment_order"] == second["segment_order"]:
        detail = f"{begins}{second['start_time']} s, and at {first['start_time']} s in sample {other}"
    else:
        detail = (
            f"{begins}{second['start_time']} s, before segment_order {first['segment_order']} of sample {other} at "
            f"{first['start_time']} s"
        )
    fix = f"{detail}: number the segments of a recording in the order of their times, or not at all"
    problems.add(second["sample_id"], Problem(_ORDER, fix), place=second_place)
