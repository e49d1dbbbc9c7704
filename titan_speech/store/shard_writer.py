"""Merges a part's sorted runs to shards, each on its own and in any process.

In: the runs of a part (external_sort.py), from however many inputs. Out: `ShardJob`s, one per shard, and `PartInfo`.

Shards are ranges of keys with equal numbers of tokens. Their borders are found without holding all keys: tokens are
counted in 65,536 ranges of keys, and only the ranges with a border are looked at sample by sample. A shard then is a
slice of every run, merged by key. Memory: three times a shard's bytes and rows (400 MB at 128 MB per shard); finding
the borders of 80 M samples takes 20 bytes for each sample of one range and the keys of one run at a time. One process
writes 110 M tokens per second of CPU time with 500 codes per sample.

Shapes: N samples of a shard or run, S shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from titan_speech.store.external_sort import Ragged, SortedRun
from titan_speech.store.files import TOKEN_DTYPES, TOKENS, suffix_of, write_array, write_sidecar
from titan_speech.store.manifest import CodecInfo, Kind, PartInfo, PartKey, ShardInfo, VariantInfo, codes_per_sec
from titan_speech.store.sample import VARIANTS, stored_columns

RANGE_BITS = 16
SAMPLES_PER_WRITE = 4096


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: the samples with keys in [first_key, last_key]."""

    key: PartKey
    name: str
    runs: tuple[SortedRun, ...]
    first_key: int
    last_key: int


def shard_jobs(runs: Sequence[SortedRun], shard_bytes: int) -> list[ShardJob]:
    """The shards of one part, in stored order."""
    first_keys = _first_keys(runs, shard_bytes)
    last_keys = [key - 1 for key in first_keys[1:]] + [(1 << 64) - 1]
    key, kept = runs[0].key, tuple(runs)
    return [
        ShardJob(key, f"{number:05d}", kept, first, last)
        for number, (first, last) in enumerate(zip(first_keys, last_keys, strict=True))
    ]


@dataclass(frozen=True)
class _RunLengths:
    """Keys and lengths of a run, mapped once to find the borders."""

    keys_N: NDArray[np.uint64]
    lengths_N: NDArray[np.int32]


def _first_keys(runs: Sequence[SortedRun], shard_bytes: int) -> list[int]:
    """The smallest key of each shard that has samples; 0 for the first.

    Sample i of the whole order goes to shard starts[i] * S // total: shard s begins with the first sample whose start
    is at least s * total / S.
    """
    opened = [_RunLengths(run.keys_N(), run.lengths_N(TOKENS)) for run in runs]
    tokens_in_ranges = np.zeros(1 << RANGE_BITS, np.int64)
    for run in opened:
        ranges_N = (run.keys_N >> np.uint64(64 - RANGE_BITS)).astype(np.int64)
        tokens_in_ranges += np.bincount(ranges_N, run.lengths_N, minlength=1 << RANGE_BITS).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(tokens_in_ranges)])
    total, token_bytes = int(before[-1]), TOKEN_DTYPES[runs[0].key.kind].itemsize
    num_shards = max(1, round(total * token_bytes / shard_bytes))
    targets_S = np.array([-(-shard * total // num_shards) for shard in range(1, num_shards)], np.int64)
    range_S = np.searchsorted(before[:-1], targets_S, side="right") - 1
    found = {0}
    for index in np.unique(range_S).tolist():
        keys_N, lengths_N = _samples_of_range(opened, index)
        starts_N = before[index] + np.cumsum(lengths_N) - lengths_N
        places = np.searchsorted(starts_N, targets_S[range_S == index], side="left")
        following = (index + 1) << (64 - RANGE_BITS)
        found |= {int(keys_N[place]) if place < len(keys_N) else following for place in places}
    return _without_empty(opened, sorted(found - {1 << 64}))


def _samples_of_range(opened: Sequence[_RunLengths], index: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Keys and lengths of the samples in one range, sorted by key."""
    first = index << (64 - RANGE_BITS)
    slices = [slice(*key_slice(run.keys_N, first, first + (1 << (64 - RANGE_BITS)) - 1)) for run in opened]
    keys_N = np.concatenate([run.keys_N[some] for run, some in zip(opened, slices, strict=True)])
    lengths = [run.lengths_N[some] for run, some in zip(opened, slices, strict=True)]
    order_N = np.argsort(keys_N, kind="stable")
    return keys_N[order_N], np.concatenate(lengths, dtype=np.int64)[order_N]


def key_slice(keys_N: NDArray[np.uint64], first: int, last: int) -> tuple[int, int]:
    """First and end index of keys in [first, last] among sorted keys."""
    start = int(np.searchsorted(keys_N, np.uint64(first), side="left"))
    return start, int(np.searchsorted(keys_N, np.uint64(last), side="right"))


def _without_empty(opened: Sequence[_RunLengths], first_keys: list[int]) -> list[int]:
    """Leaves out shards without samples, which very small shards may be."""
    borders = np.array(first_keys, np.uint64)
    below = sum((np.searchsorted(run.keys_N, borders, side="left") for run in opened), np.zeros(len(borders), np.int64))
    num_samples = np.diff(np.append(below, sum(len(run.keys_N) for run in opened)))
    kept = [key for key, count in zip(first_keys, num_samples, strict=True) if count]
    return [0, *kept[1:]]


def write_shard(job: ShardJob, store: Path) -> ShardInfo:
    """Writes the shard's files under `store`; the part's folder must exist."""
    slices = [(run, *key_slice(run.keys_N(), job.first_key, job.last_key)) for run in job.runs]
    slices = [(run, start, stop) for run, start, stop in slices if stop > start]
    tables = {run.path("rows"): run.rows() for run, _, _ in slices}
    rows = pa.concat_tables([tables[run.path("rows")].slice(start, stop - start) for run, start, stop in slices])
    order_N = _order(np.concatenate([run.keys_N()[start:stop] for run, start, stop in slices]), rows)
    files = []
    for name in (TOKENS, *variants_of(job.runs)):
        pieces = [run.slice(name, start, stop, tables[run.path("rows")]) for run, start, stop in slices]
        ragged = Ragged.join(pieces)
        path = f"{job.key.folder}/{job.name}.{suffix_of(name)}"
        files.append(write_array(store, path, ragged.chunks(order_N, SAMPLES_PER_WRITE)))
    stored = rows.select(stored_columns(job.key.kind, variants_of(job.runs))).combine_chunks().take(pa.array(order_N))
    files.append(write_sidecar(store, f"{job.key.folder}/{job.name}.parquet", stored))
    num_tokens = int(stored["code_len"].to_numpy().sum(dtype=np.int64))
    return ShardInfo(job.name, len(order_N), num_tokens, tuple(files))


def _order(keys_N: NDArray[np.uint64], rows: pa.Table) -> NDArray[np.int64]:
    """Order by key, and by sample id where two ids share a key, so that it does not depend on the order of arrival."""
    order_N = np.argsort(keys_N, kind="stable")
    sorted_N = keys_N[order_N]
    if (sorted_N[1:] == sorted_N[:-1]).any():
        ids = rows["sample_id"].to_pylist()
        order_N = np.array(sorted(range(len(ids)), key=lambda row: (keys_N[row], ids[row])), np.int64)
    return order_N


def variants_of(runs: Sequence[SortedRun]) -> tuple[str, ...]:
    """Transcript variants that any of the runs has."""
    names = {variant.name for run in runs for variant in run.variants}
    return tuple(name for name in VARIANTS if name in names)


def part_info(runs: Sequence[SortedRun], shards: Sequence[ShardInfo], codec: CodecInfo | None) -> PartInfo:
    """The manifest's entry of a part whose shards are written."""
    key, num_tokens = runs[0].key, sum(run.num_tokens for run in runs)
    variants = []
    for name in variants_of(runs):
        counts = [variant for run in runs for variant in run.variants if variant.name == name]
        variants.append(VariantInfo(name, sum(c.num_samples for c in counts), sum(c.num_tokens for c in counts)))
    return PartInfo(
        dataset_source=key.dataset_source,
        language=key.language,
        kind=key.kind,
        num_samples=sum(run.num_samples for run in runs),
        num_tokens=num_tokens,
        duration_sec=round(num_tokens / codes_per_sec(codec), 3) if key.kind is Kind.SPEECH else 0.0,
        variants=tuple(variants),
        shards=tuple(shards),
    )


def write_part(runs: Sequence[SortedRun], store: Path, shard_bytes: int, codec: CodecInfo | None) -> PartInfo:
    """Writes all shards of a part, in this process."""
    (store / runs[0].key.folder).mkdir()
    return part_info(runs, [write_shard(job, store) for job in shard_jobs(runs, shard_bytes)], codec)


def by_part(runs: Sequence[SortedRun]) -> dict[PartKey, list[SortedRun]]:
    """Runs of each part, in the order of the parts in a manifest."""
    parts: dict[PartKey, list[SortedRun]] = {}
    for run in runs:
        parts.setdefault(run.key, []).append(run)
    return dict(sorted(parts.items(), key=lambda item: item[0].folder))
