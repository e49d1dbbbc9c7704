"""DCP's file writer, which hashes what it writes, keeps weights apart, and commits at the end.

In: the plan of a save, on every rank. Out: a committed checkpoint, or an error on every rank. DCP gathers what each
rank wrote on rank 0; sizes and checksums go along, so the marker names the files of all ranks, on whatever disks they
lie. Each rank writes two files, its weights and all else: leaving the optimizer out later rewrites nothing.

The commit of rank 0 comes back to every rank in the result of the save (`commit_of`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import xxhash
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from titan_speech.checkpoint.commit import Commit, FileRecord, Kind, Role, file_record, sync_folder
from titan_speech.checkpoint.folder import partial_path, publish
from titan_speech.checkpoint.names import INDEX, role_of_name


@dataclass(frozen=True)
class SaveJob:
    """One save, as every rank knows it."""

    checkpoint: Path
    """.../step-N, where it will be when it is complete."""

    step: int
    kind: Kind
    reason: str
    world_size: int
    write_beside: Callable[[], tuple[FileRecord, ...]]
    """Writes the records beside the checkpoint; called on rank 0, before the marker is written."""


@dataclass(frozen=True)
class RecordedWrite(WriteResult):
    """DCP's result of one tensor, with the file it lies in."""

    file: FileRecord


@dataclass
class CommittedMeta(StorageMeta):
    """Brings the commit to all ranks; it is put in after .metadata was written."""

    commit: Commit | None = None


def commit_of(metadata: Metadata) -> Commit:
    """The commit a save returned with."""
    assert isinstance(metadata.storage_meta, CommittedMeta), f"{type(metadata.storage_meta)} instead of CommittedMeta"
    assert metadata.storage_meta.commit is not None, "a save that ended without a commit"
    return metadata.storage_meta.commit


class HashingStream:
    """A binary file that is only written to at its end, with the checksum of what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest, self._num_bytes = file, xxhash.xxh3_128(), 0

    def write(self, data: Any) -> int:
        self._digest.update(data)
        self._num_bytes += memoryview(data).nbytes
        return self._file.write(data)

    def record(self, name: str, role: Role) -> FileRecord:
        return FileRecord(name, self._num_bytes, self._digest.hexdigest(), role)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class HashingFileSystem(FileSystem):
    """Keeps the stream of each file that was written."""

    def __init__(self) -> None:
        self.streams: dict[str, HashingStream] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as file:
            stream = self.streams[Path(path).name] = HashingStream(file)  # pyright: ignore[reportArgumentType]
            yield stream


def _of_the_disk(error: Exception) -> Exception:
    """What the disk said, where torch's own complaint of an archive it could not end came after it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause if isinstance(cause, OSError) else error


class CommittingWriter(FileSystemWriter):
    """Writes into .../step-N.partial; rank 0 publishes it as .../step-N when every rank has written."""

    def __init__(self, job: SaveJob) -> None:
        super().__init__(partial_path(job.checkpoint))
        self.job = job
        self.fs = self.hashing = HashingFileSystem()

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        written: list[WriteResult] = []
        for role in ("model", "state"):
            items = [item for item in plan.items if role_of_name(item.index.fqn) == role]
            if items:
                storage = replace(plan.storage_data, prefix=f"{plan.storage_data.prefix}{role}_")
                try:
                    part = super().write_data(replace(plan, items=items, storage_data=storage), planner).wait()
                except Exception as error:
                    raise _of_the_disk(error) from None
                written += [self._recorded(result, role) for result in part]
        sync_folder(Path(self.path))
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done

    def _recorded(self, result: WriteResult, role: Role) -> RecordedWrite:
        name = result.storage_data.relative_path
        record = self.hashing.streams[name].record(name, role)
        return RecordedWrite(result.index, result.size_in_bytes, result.storage_data, record)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        index = file_record(Path(self.path) / INDEX, INDEX, "index")
        written = {result.file for rank in results for result in rank if isinstance(result, RecordedWrite)}
        files = (*sorted(written, key=lambda file: file.name), index, *self.job.write_beside())
        job = self.job
        commit = Commit(job.step, job.kind, job.reason, time.time(), job.world_size, files)
        publish(job.checkpoint, commit)
        metadata.storage_meta = CommittedMeta(commit=commit)
