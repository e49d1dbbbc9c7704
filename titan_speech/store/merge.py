"""Whether stores speak one language of codes and ids, and what they are together.

In: stores that are to become one. Out: a manifest without parts for what is made of them, or an error that names every
difference and what brings them together.

A new store out of runs: whole or not at all, in parallel over shards.

In: the manifest to be, but for its parts, and jobs that make runs of existing stores. Out: a folder that `open_store`
opens. All is written to STORE.tmp-<pid> and renamed at the end; an error or an interrupt leaves nothing. While it is
written it takes a second copy of its tokens on disk.

Shards of existing stores as runs of a store to be: what merging, migrating and cutting a gold pack share.

In: a store, and for each shard which samples are kept or what changes in them. Out: runs (write/runs.py), which are cut
into shards as those of a build are. Every file is checked against its sha256 before it is read. Memory: one shard with
its rows for each worker (400 MB at 128 MB a shard).

Shapes: N samples of a shard.

Several stores as one.

In: stores of one codec and tokenizer, their texts normalized by the same rules; where some were cleaned besides, each
row keeps the version it was made with and the manifest lists them. Out: the store that a build from all their inputs
would have given, byte for byte where their seed is the same: samples are ordered by a hash of seed and id, so parts of
one key merge by it. Stores of different seeds are reordered under one. One process
merges 12 M tokens/s with 500 codes a sample on a busy machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.store.external_sort import Ragged, Run, dtype_of, order_keys, write_run
from titan_speech.store.files import TOKENS, PartKey, StoreFiles, suffix_of
from titan_speech.store.manifest import Kind, Manifest, PartInfo, ShardInfo
from titan_speech.store.reader import Store, open_store
from titan_speech.store.sample import ROW_SCHEMA, Problems, all_rules, rules_of
from titan_speech.store.shard_writer import by_part, find_conflicts, part_info, shard_jobs, write_shard
from titan_speech.store.tasks import count_tasks
from titan_speech.store.writer import check_shard_bytes, codes_per_sec, fresh_folder, write_manifest
from titan_speech.utils.progress import Progress


def manifest_of_all(stores: Sequence[Store], name: str, seed: int) -> Manifest:
    """Of stores that `refuse_different` let pass."""
    manifests = [store.manifest for store in stores]
    return Manifest(
        name=name,
        licence=" AND ".join(dict.fromkeys(manifest.licence for manifest in manifests)),
        codec=next((manifest.codec for manifest in manifests if manifest.codec is not None), None),
        tokenizer=manifests[0].tokenizer,
        normalization_version=all_rules(manifest.normalization_version for manifest in manifests),
        seed=seed,
        parts=(),
    )


def refuse_different(stores: Sequence[Store], what_failed: str) -> None:
    """All that keeps the stores apart, in one error."""
    problems = []
    codecs = {store.path: store.manifest.codec for store in stores if store.manifest.codec is not None}
    if len({(codec.hash, codec.codes_per_sec) for codec in codecs.values()}) > 1:
        lines = [f"    {path}: {codec.name}, hash {codec.hash}" for path, codec in codecs.items()]
        problems += ["  codecs differ, and codes of one mean nothing to another: re-encode the audio", *lines]
    tokenizers = {store.path: store.manifest.tokenizer.fingerprint for store in stores}
    if len(set(tokenizers.values())) > 1:
        problems.append(
            "  tokenizers differ: bring them to one with `titan-speech store migrate STORE --tokenizer DIR` (and "
            "--old-tokenizer with the folder of its own where it has parts of text)"
        )
        problems += [f"    {path}: {fingerprint}" for path, fingerprint in tokenizers.items()]
    versions = {store.path: store.manifest.normalization_version for store in stores}
    if len(set().union(*map(rules_of, versions.values()))) > 1:
        problems.append("  normalizations differ: bring each to this version's, DIR being the tokenizer's folder")
        for store in stores:
            problems += [f"    {store.path}: {versions[store.path]}", f"      {_normalizing(store)}"]
    if problems:
        raise DataError(f"{what_failed}:\n" + "\n".join(problems))


def _normalizing(store: Store) -> str:
    """The command; parts of text hold ids only, which their own tokenizer decodes."""
    decoded = " --old-tokenizer DIR" if any(part.info.kind is Kind.TEXT for part in store.parts) else ""
    return f"titan-speech store migrate {store.path} --normalization --tokenizer DIR{decoded} --output NEW"


SMALL_BYTES = 64 << 20
Job = TypeVar("Job")
Done = TypeVar("Done")


@dataclass(frozen=True)
class RunJob:
    """Makes one run in `folder`, in any process; `num_bytes` is for progress."""

    make: Callable[[Path], Run | None]
    num_bytes: int

    def __call__(self, folder: Path) -> Run | None:
        return self.make(folder)


def assemble_store(
    path: Path,
    manifest: Manifest,
    jobs: Sequence[RunJob],
    *,
    shard_bytes: int,
    num_workers: int | None,
    verb: str,
    check: bool = True,
    finish: Callable[[Path, Manifest], None] = lambda folder, manifest: None,
) -> Manifest:
    """`check` looks for repeated ids and contradicting segments, which one sound store does not have; `finish` may add
    files to the folder before it is moved into place."""
    folder = fresh_folder(path)
    try:
        num_bytes = sum(job.num_bytes for job in jobs)
        with _workers(num_workers, num_bytes) as workers, Progress(f"{verb} {path}", 2 * num_bytes, "MB", 1e6) as shown:
            runs = _runs(jobs, folder / "spill", workers, shown)
            if check:
                _refuse_conflicts(runs, path)
            parts = _parts(runs, folder, shard_bytes, codes_per_sec(manifest.codec), workers, shown)
        shutil.rmtree(folder / "spill")
        sealed = replace(manifest, parts=parts, tasks=count_tasks(folder, parts)).sealed()
        finish(folder, sealed)
        write_manifest(sealed, folder)
        _publish(folder, path)
        return sealed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_conflicts(runs: Sequence[Run], path: Path) -> None:
    problems = Problems(f"store {path} was not written")
    find_conflicts(runs, problems)
    problems.raise_if_any()


def _runs(jobs: Sequence[RunJob], folder: Path, workers: Workers, shown: Progress) -> list[Run]:
    runs = []
    for job, run in zip(jobs, workers.map(partial(_run, folder=folder), jobs), strict=True):
        shown.add(job.num_bytes)
        if run is not None:
            runs.append(run)
    return runs


def _run(job: RunJob, folder: Path) -> Run | None:
    return job(folder)


def _parts(
    runs: Sequence[Run], folder: Path, shard_bytes: int, rate: float, workers: Workers, shown: Progress
) -> tuple[PartInfo, ...]:
    """Shards of all parts at once, then the parts they make."""
    grouped = by_part(runs)
    jobs = []
    for key, some in grouped.items():
        (folder / key.folder).mkdir()
        jobs += shard_jobs(some, shard_bytes)
    shards: dict[str, list[ShardInfo]] = {key.folder: [] for key in grouped}
    for job, shard in zip(jobs, workers.map(partial(write_shard, store=folder), jobs), strict=True):
        shards[job.key.folder].append(shard)
        shown.add(shard.num_bytes)
    return tuple(part_info(some, shards[key.folder], rate) for key, some in grouped.items())


@dataclass(frozen=True)
class Workers:
    """Processes, or none where there is little to do."""

    pool: ProcessPoolExecutor | None

    def map(self, call: Callable[[Job], Done], jobs: Sequence[Job]) -> Iterator[Done]:
        return map(call, jobs) if self.pool is None else self.pool.map(call, jobs)


@contextmanager
def _workers(num_workers: int | None, num_bytes: int) -> Iterator[Workers]:
    count = num_workers or (os.cpu_count() or 1 if num_bytes >= SMALL_BYTES else 1)
    if count == 1:
        yield Workers(None)
        return
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
    try:
        yield Workers(pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _publish(folder: Path, path: Path) -> None:
    try:
        os.rename(folder, path)
    except OSError as error:
        raise DataError(f"{path} appeared in the meantime ({error}); it was left as it is") from error


@dataclass(frozen=True)
class StoredShard:
    """Samples of one shard in memory: rows with every column there is, tokens, and ids of each variant."""

    key: PartKey
    rows: pa.Table
    data: dict[str, Ragged]

    def taken(self, index_N: NDArray[np.int64]) -> StoredShard:
        """Some of the samples."""
        rows = self.rows.take(pa.array(index_N))
        return replace(self, rows=rows, data={name: ragged.take(index_N) for name, ragged in self.data.items()})

    def write_run(self, folder: Path, name: str, seed: int, unit: str) -> Run:
        """As a run in the order of `seed`; variants no sample has are left out."""
        keys_N = order_keys(self.rows["sample_id"], seed)
        data = {name: ragged for name, ragged in self.data.items() if name == TOKENS or len(ragged.data_T)}
        run = write_run(folder / self.key.folder, name, self.key, self.rows, keys_N, data)
        return replace(run, unit=unit)


def read_shard(files: StoreFiles, part: PartInfo, shard: ShardInfo) -> StoredShard:
    key = PartKey(part.dataset_source, part.language, part.kind)
    files.check(shard.file("parquet"))
    rows = _all_columns(pq.read_table(files.sidecar(shard.file("parquet")), use_threads=False))
    data = {}
    for name in (TOKENS, *(variant.name for variant in part.variants)):
        array = files.array(shard.file(suffix_of(name)), dtype_of(name, part.kind))
        lengths_N = rows["code_len" if name == TOKENS else f"text_len_{name}"].to_numpy()
        data[name] = Ragged(array, lengths_N)
    return StoredShard(key, rows, data)


def _all_columns(table: pa.Table) -> pa.Table:
    """Columns a sidecar leaves out are 0 where they count tokens and null elsewhere."""
    columns = []
    for field in ROW_SCHEMA:
        if field.name in table.column_names:
            columns.append(table[field.name])
        elif field.name.startswith("text_len_"):
            columns.append(pa.array(np.zeros(table.num_rows, np.int32)))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=ROW_SCHEMA)


@dataclass(frozen=True)
class MergeOptions:
    """What a merged store is called and how it is cut."""

    name: str | None = None
    """Default: the names of the stores."""
    seed: int | None = None
    """Default: the seed of the first store."""
    shard_bytes: int = 128 << 20
    num_workers: int | None = None


def merge_stores(
    paths: Sequence[str | Path],
    output: str | Path,
    options: MergeOptions = MergeOptions(),
    storage: StorageConfig | None = None,
) -> Manifest:
    """The store at `output` holds the samples of all; nothing is written when they cannot be merged."""
    check_shard_bytes(options.shard_bytes)
    if len({Path(path).resolve() for path in paths}) != len(paths) or len(paths) < 2:
        raise DataError(f"got stores {', '.join(map(str, paths))}: expected two or more different ones")
    stores = [open_store(path, storage) for path in paths]
    refuse_different(stores, "these stores cannot be merged")
    seed = stores[0].manifest.seed if options.seed is None else options.seed
    manifest = manifest_of_all(stores, options.name or " + ".join(store.manifest.name for store in stores), seed)
    jobs = [job for number, store in enumerate(stores) for job in _jobs(store, number, seed)]
    return assemble_store(
        Path(output),
        manifest,
        jobs,
        shard_bytes=options.shard_bytes,
        num_workers=options.num_workers,
        verb="merge into",
    )


def _jobs(store: Store, number: int, seed: int) -> list[RunJob]:
    pairs = [(part, shard) for part in store.manifest.parts for shard in part.shards]
    return [
        RunJob(_ShardRun(store.files, part, shard, f"{number}-{shard.name}", seed), shard.num_bytes)
        for part, shard in pairs
    ]


@dataclass(frozen=True)
class _ShardRun:
    """A shard as a run, unchanged."""

    store: StoreFiles
    part: PartInfo
    shard: ShardInfo
    name: str
    seed: int

    def __call__(self, folder: Path) -> Run:
        shard = read_shard(self.store, self.part, self.shard)
        return shard.write_run(folder, self.name, self.seed, unit=str(self.store))
