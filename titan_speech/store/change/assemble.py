"""A new store out of runs: whole or not at all, in parallel over shards.

In: the manifest to be, but for its parts, and jobs that make runs of existing stores. Out: a folder that `open_store`
opens. All is written to STORE.tmp-<pid> and renamed at the end; an error or an interrupt leaves nothing. While it is
written it takes a second copy of its tokens on disk.
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

from titan_speech.errors import DataError
from titan_speech.progress import Progress
from titan_speech.store.builder import codes_per_sec, fresh_folder, write_manifest
from titan_speech.store.manifest import Manifest, PartInfo, ShardInfo
from titan_speech.store.problems import Problems
from titan_speech.store.tasks import count_tasks
from titan_speech.store.write.conflicts import find_conflicts
from titan_speech.store.write.cut import by_part, part_info, shard_jobs, write_shard
from titan_speech.store.write.runs import Run

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
