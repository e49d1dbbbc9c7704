"""A new store out of shards of existing stores: what merging, migrating and making a held-out set have in common.

In: the new manifest without its parts, and a `ShardRewrite` for every shard that goes into the new store: unchanged,
changed, or some of its samples. Out: a folder that `open_store` opens. Every file is verified against its sha256 before
it is read. Each rewritten shard becomes a run (external_sort.py); runs are merged and cut into shards as those of a
build are.

Everything is written to STORE.tmp-<pid> and renamed at the end; an error or an interrupt leaves nothing. Until then it
takes a second copy of the tokens on disk. Memory: one shard with its rows per worker (400 MB at 128 MB per shard).

Shapes: N samples of a shard.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from titan_speech.store.external_sort import Ragged, SortedRun, order_keys, write_run
from titan_speech.store.files import TOKENS, LocalFiles, StoreFiles, dtype_of, length_column, suffix_of
from titan_speech.store.manifest import Manifest, PartInfo, PartKey, ShardInfo
from titan_speech.store.problems import Problems
from titan_speech.store.reader import Part, Store
from titan_speech.store.sample import ROW_SCHEMA, absent_column
from titan_speech.store.sample_conflicts import find_conflicts
from titan_speech.store.score_columns import carry_scores
from titan_speech.store.shard_writer import ShardJob, by_part, part_info, shard_jobs, write_shard
from titan_speech.store.writer import complete_manifest, fresh_folder, publish
from titan_speech.utils.process_pool import Advance, run_tasks
from titan_speech.utils.progress import Progress

SMALL_BYTES = 64 << 20
"""Below this, one process is used unless the user asks for more: starting processes takes longer than the work."""


@dataclass(frozen=True)
class StoredShard:
    """The samples of one shard in memory: rows with all columns, tokens, and ids of each variant."""

    key: PartKey
    rows: pa.Table
    data: dict[str, Ragged]

    def take(self, index_N: NDArray[np.int64]) -> StoredShard:
        """Some of the samples."""
        rows = self.rows.take(pa.array(index_N))
        return replace(self, rows=rows, data={name: ragged.take(index_N) for name, ragged in self.data.items()})


def _read_shard(files: StoreFiles, part: PartInfo, shard: ShardInfo) -> StoredShard:
    stored = pq.read_table(files.sidecar(shard.file("parquet"), verify=True), use_threads=False)
    columns = [
        stored[field.name] if field.name in stored.column_names else absent_column(field, stored.num_rows)
        for field in ROW_SCHEMA
    ]
    rows = pa.Table.from_arrays(columns, schema=ROW_SCHEMA)
    data = {}
    for name in (TOKENS, *(variant.name for variant in part.variants)):
        array = files.array(shard.file(suffix_of(name)), dtype_of(name, part.kind))
        data[name] = Ragged(array, rows[length_column(name)].to_numpy())
    return StoredShard(part.key, rows, data)


@dataclass(frozen=True)
class ShardRewrite:
    """A shard of an existing store that goes into the new one; picklable."""

    files: StoreFiles
    part: PartInfo
    shard: ShardInfo
    name: str
    """Of its run, unique in the part of the new store."""
    seed: int
    """Of the order of samples in the new store."""
    change: Callable[[StoredShard], StoredShard] | None = None

    def write_run(self, folder: Path) -> SortedRun:
        """The samples as a sorted run; variants that no sample has are left out."""
        shard = _read_shard(self.files, self.part, self.shard)
        if self.change is not None:
            shard = self.change(shard)
        keys_N = order_keys(shard.rows["sample_id"], self.seed)
        data = {name: ragged for name, ragged in shard.data.items() if name == TOKENS or len(ragged.data_T)}
        run = write_run(folder / shard.key.folder, self.name, shard.key, shard.rows, keys_N, data)
        return replace(run, unit=str(self.files))


def shards_of(store: Store) -> Iterator[tuple[PartInfo, ShardInfo]]:
    return ((part, shard) for part in store.manifest.parts for shard in part.shards)


def _write_run(folder: Path, task: ShardRewrite, advance: Advance) -> SortedRun:
    """In a worker process: writes the run of a shard."""
    run = task.write_run(folder)
    advance(run.num_samples, task.shard.num_bytes)
    return run


def _write_shard(folder: Path, task: ShardJob, advance: Advance) -> ShardInfo:
    """In a worker process: writes a shard of the new store from all runs."""
    shard = write_shard(task, folder)
    advance(shard.num_samples, shard.num_bytes)
    return shard


def assemble_store(
    path: Path,
    manifest: Manifest,
    rewrites: Sequence[ShardRewrite],
    *,
    shard_bytes: int,
    num_workers: int | None,
    verb: str,
    check: bool = True,
    keep_scores: bool = True,
    finish: Callable[[Path], object] = lambda folder: None,
) -> Manifest:
    """Write a new store.

    Args:
        path: the new folder; must not exist.
        manifest: of the new store, without parts.
        num_workers: processes; None is one per core, or one for a small store.
        verb: of the progress line, before the path.
        check: look for repeated sample ids and contradicting segments, which one sound store does not have.
        keep_scores: samples keep the scores that they have (score_columns.py).
        finish: may add files to the folder before it is moved into place.

    Returns:
        The complete manifest.

    Raises:
        DataError: a file is damaged, samples contradict each other, or `path` exists; nothing is left.
    """
    folder = fresh_folder(path)
    try:
        num_bytes = sum(rewrite.shard.num_bytes for rewrite in rewrites)
        num_processes = num_workers or (os.cpu_count() or 1 if num_bytes >= SMALL_BYTES else 1)
        with Progress(f"{verb} {path}", 2 * num_bytes, "B") as progress:
            write_run = partial(_write_run, folder / "spill")
            runs = run_tasks(write_run, rewrites, num_processes, lambda counts, _: progress.update(counts[:, 1].sum()))
            if check:
                problems = Problems(f"store {path} was not written")
                find_conflicts(runs, problems)
                problems.raise_if_any()
            jobs = {key: shard_jobs(some, shard_bytes) for key, some in by_part(runs).items()}
            for key in jobs:
                (folder / key.folder).mkdir()
            shards = run_tasks(
                partial(_write_shard, folder),
                [job for some in jobs.values() for job in some],
                num_processes,
                lambda counts, _: progress.update(num_bytes + counts[:, 1].sum()),
            )
        shutil.rmtree(folder / "spill")
        left = iter(shards)
        parts = (part_info(some[0].runs, list(islice(left, len(some))), manifest.codec) for some in jobs.values())
        sealed = complete_manifest(manifest, tuple(parts), folder)
        if keep_scores:
            _keep_scores(folder, sealed, rewrites)
        finish(folder)
        publish(sealed, folder, path)
        return sealed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep_scores(folder: Path, manifest: Manifest, rewrites: Sequence[ShardRewrite]) -> None:
    origins: dict[str, dict[tuple[str, str], Part]] = {}
    for one in rewrites:
        place = str(one.files), one.part.folder
        origins.setdefault(one.part.folder, {})[place] = Part(one.files, one.part, manifest.tokenizer.num_base)
    for part in Store(LocalFiles(folder), manifest).parts:
        carry_scores(folder, part, list(origins[part.name].values()))
