"""Verifies that a whole store is still as it was written.

In: the path of a store. Out: `StoreVerification`, every problem found: files that are missing, truncated, damaged,
swapped or unexpected; sidecars that do not match their tokens, samples whose checksum is wrong, ids that repeat, totals
that do not add up. `quick` compares the list of files and their sizes only.

Threads verify a shard each (verify_shard.py); hashing and parquet run outside Python's lock. Memory: 8 bytes per sample
for ids (640 MB at 80 M samples) and, per worker, some sidecar columns of one shard (60 bytes per sample).
With samples of 1 kB a thread takes 2.5 times as long as sha256 alone.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.cache_folder import cache_folder, temporary_cache
from titan_speech.storage.s3_url import is_s3
from titan_speech.store.files import StoreFiles, size_problems
from titan_speech.store.manifest import MANIFEST_NAME, Manifest, PartInfo, ShardInfo
from titan_speech.store.reader import Store, store_files
from titan_speech.store.score_columns import read_scores, score_file
from titan_speech.store.shard_reader import read_sidecar
from titan_speech.store.tasks import count_tasks
from titan_speech.store.verify_shard import CheckedShard, ShardCheck
from titan_speech.tokenization.prompt_template import PREFERENCE
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.printable import joined_lines
from titan_speech.utils.progress import Progress
from titan_speech.utils.text_table import counted

MAX_NAMED = 100
KEY_RANGE_BITS = 3


@dataclass(frozen=True)
class StoreVerification:
    """The outcome of reading a whole store; it is sound if there are no problems."""

    path: str
    problems: tuple[str, ...]
    num_files: int
    num_bytes: int
    num_samples: int
    is_quick: bool = False

    @property
    def is_sound(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        what = "sizes of " if self.is_quick else ""
        size = f"{self.num_bytes / 1e6:,.1f} MB"
        read = f"{what}{counted(self.num_files, 'file')}, {size}, {counted(self.num_samples, 'sample')}"
        if self.is_sound:
            return f"{self.path}: sound ({read})"
        lines = [f"  {problem}" for problem in self.problems[:MAX_NAMED]]
        if len(self.problems) > MAX_NAMED:
            lines.append(f"  and {len(self.problems) - MAX_NAMED} more")
        return joined_lines([f"{self.path}: {counted(len(self.problems), 'problem')} ({read})", *lines])


def verify_store(
    path: str | Path, num_workers: int | None = None, quick: bool = False, storage: StorageConfig | None = None
) -> StoreVerification:
    """Reads a store and collects every problem.

    Args:
        path: a folder, or s3://bucket/prefix.
        num_workers: threads; by default one per core.
        quick: compare names and sizes of files only.

    Raises:
        DataError: the manifest cannot be read.
    """
    with stored_files(path, storage) as store:
        manifest = store.manifest()
        problems = _sum_problems(store, manifest) + size_problems(store, manifest)
        problems += unexpected_files(store.list_paths(), manifest)
        if not quick:
            problems += _content_problems(store, manifest, num_workers or os.cpu_count() or 1)
            problems += _score_problems(store, manifest)
    return StoreVerification(
        path=str(path),
        problems=tuple(problems),
        num_files=len(manifest.files),
        num_bytes=sum(file.num_bytes for file in manifest.files),
        num_samples=manifest.num_samples,
        is_quick=quick,
    )


@contextmanager
def stored_files(path: str | Path, storage: StorageConfig | None = None) -> Iterator[StoreFiles]:
    """As `store_files`, but reads what is stored now, not what the node's cache holds."""
    if not is_s3(path):
        yield store_files(path)
        return
    storage = storage or StorageConfig()
    with temporary_cache(cache_folder(storage)) as folder:
        yield store_files(path, replace(storage, cache_dir=str(folder)))


def unexpected_files(paths: Collection[str], manifest: Manifest) -> list[str]:
    """Files in a part's folder that the manifest does not list, and shards anywhere else.

    Scores of its parts (score_columns.py), other files next to the manifest (README.md, gold.json) and whole stores
    inside the folder are ignored.
    """
    listed = {file.path for file in manifest.files} | {score_file(part.folder) for part in manifest.parts}
    folders = {part.folder for part in manifest.parts}
    found: list[str] = []
    for path in sorted(set(paths) - listed):
        top = path.partition("/")[0]
        if f"{top}/{MANIFEST_NAME}" not in paths and (_is_shard_file(path) or (top in folders and top != path)):
            found.append(path)
    return [f"{path} is not in the manifest, so it is not part of the store" for path in found]


def _is_shard_file(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith((".tokens", ".parquet")) or ".text." in name


def _score_problems(store: StoreFiles, manifest: Manifest) -> list[str]:
    """Scores that are damaged or of other samples."""
    problems = []
    for part in Store(store, manifest).parts:
        try:
            read_scores(part)
        except DataError as error:
            problems.append(str(error))
    return problems


def _sum_problems(store: StoreFiles, manifest: Manifest) -> list[str]:
    """Compares the manifest with itself: parts add up to the totals. That shards add up to parts, reading it checks."""
    totals = parse_json(store.read(MANIFEST_NAME) or b"{}").get("totals")
    is_sum = totals == json.loads(manifest.to_json())["totals"]
    return [] if is_sum else [f"{MANIFEST_NAME}: totals are not the sums of the parts"]


def _content_problems(store: StoreFiles, manifest: Manifest, num_workers: int) -> list[str]:
    check = ShardCheck(store, manifest)
    pairs = [(part, shard) for part in manifest.parts for shard in part.shards]
    with Progress(f"verify {store}", sum(shard.num_bytes for _, shard in pairs), "B") as progress:

        def checked(pair: tuple[PartInfo, ShardInfo]) -> CheckedShard:
            result = check.shard(*pair)
            progress.add(pair[1].num_bytes)
            return result

        with ThreadPoolExecutor(num_workers) as pool:
            shards = list(pool.map(checked, pairs))
    problems = [problem for shard in shards for problem in shard.problems]
    problems += _order_problems(shards, manifest.seed)
    problems += _repeated_ids(store, shards)
    return problems or _variant_problems(shards) + _task_problems(store, manifest)


def _order_problems(shards: Sequence[CheckedShard], seed: int) -> list[str]:
    """Checks that keys ascend inside a part: that is the order its seed gives, by which stores are merged."""
    problems: list[str] = []
    last: dict[str, int] = {}
    for shard in shards:
        key_N = shard.key_N
        if len(key_N) and (int(key_N[0]) < last.get(shard.part.folder, 0) or (key_N[1:] < key_N[:-1]).any()):
            problems.append(f"{shard.sidecar}: samples are not in the order that seed {seed} gives")
        last[shard.part.folder] = int(key_N[-1]) if len(key_N) else last.get(shard.part.folder, 0)
    return problems


def _variant_problems(shards: Sequence[CheckedShard]) -> list[str]:
    """Checks that transcripts of the shards add up to those of the part."""
    found: Counter[tuple[str, str]] = Counter()
    for shard in shards:
        for variant, count in shard.num_text_tokens.items():
            found[shard.part.folder, variant] += count
    claimed = {(s.part.folder, v.name): v.num_tokens for s in shards for v in s.part.variants}
    return [
        f"{MANIFEST_NAME}: {variant} of {folder} has {count} tokens, its shards have {found[folder, variant]}"
        for (folder, variant), count in claimed.items()
        if found[folder, variant] != count
    ]


def _task_problems(store: StoreFiles, manifest: Manifest) -> list[str]:
    if manifest.tasks is None:
        return []
    found = count_tasks(store, manifest.parts)
    if all(totals.task != PREFERENCE for totals in manifest.tasks):  # stores of before do not count pairs
        found = tuple(totals for totals in found if totals.task != PREFERENCE)
    if manifest.tasks == found:
        return []
    return [f"{MANIFEST_NAME}: totals per task are not what the sidecars give"]


def _repeated_ids(store: StoreFiles, shards: Sequence[CheckedShard]) -> list[str]:
    """Looks up equal keys: two ids may share a 64-bit key, two samples may not share an id."""
    repeated = _repeated_keys([shard.key_N for shard in shards])
    first_of: dict[str, str] = {}
    again: list[str] = []
    for shard in shards if len(repeated) else ():
        suspects = np.flatnonzero(np.isin(shard.key_N, repeated))
        if not len(suspects):
            continue
        ids = read_sidecar(store, shard.part, shard.shard, ["sample_id"])["sample_id"]
        for sample_id in ids.take(pa.array(suspects)).to_pylist():
            if sample_id in first_of:
                again.append(f"sample {sample_id} in {first_of[sample_id]} and {shard.sidecar}")
            first_of.setdefault(sample_id, shard.sidecar)
    rest = f" (and {len(again) - 1} more)" if len(again) > 1 else ""
    return [f"sample ids occur more than once: {again[0]}{rest}"] if again else []


def _repeated_keys(keys: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Keys that occur twice; one range of keys at a time, so that sorting copies an eighth of them."""
    repeated = []
    for number in range(1 << KEY_RANGE_BITS):
        inside = [key_N[key_N >> np.uint64(64 - KEY_RANGE_BITS) == number] for key_N in keys]
        sorted_N = np.sort(np.concatenate([*inside, np.empty(0, np.uint64)]))
        repeated.append(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    return np.unique(np.concatenate(repeated))
