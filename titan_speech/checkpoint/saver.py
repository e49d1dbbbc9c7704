"""Saves in the background: training waits while the state is copied to memory, not while it is written.

In: a state dict and a `SaveJob`, on every rank.
Out: a `Commit`, or one error that every rank has, some steps later. DCP gathers on rank 0 what each rank wrote; sizes
and checksums, taken while writing, go along, so the marker names the files of all ranks, on whatever disks they are.
Each rank writes two files, its weights and all else: dropping the optimizer state later rewrites nothing.

The copy is one more state in memory (12 bytes per parameter over all ranks with AdamW in fp32), kept from save to save.
With `async_with_pinned_mem` it is filled while the next step computes its gradients, and on CUDA it is page-locked.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed.checkpoint as dcp
import xxhash
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future as TorchFuture
from torchtitan.observability import structured_logger

from titan_speech.checkpoint.commit import INDEX, Commit, FileRecord, Kind, Role, file_record, role_of_name
from titan_speech.checkpoint.folders import partial_path, publish
from titan_speech.checkpoint.suspect import SquareSums, WeightBand
from titan_speech.distributed.consensus import cpu_group
from titan_speech.distributed.last_words import is_of_a_collective
from titan_speech.utils.files import sync_folder


@dataclass(frozen=True)
class SaveJob:
    """One save; equal on every rank, but for the band."""

    checkpoint: Path
    """.../step-N, its folder once it is complete."""

    step: int
    kind: Kind
    reason: str
    world_size: int
    write_companions: Callable[[], tuple[FileRecord, ...]]
    """Writes the companion files; called on rank 0, before the marker is written."""
    band: WeightBand = field(default_factory=lambda: WeightBand({}, 0))
    """Of this rank; the default suspects nothing."""
    suspect: str = ""
    """Why the checkpoint is suspect whatever its weights are; empty if nothing is known."""


@dataclass(frozen=True)
class RecordedWrite(WriteResult):
    """DCP's result of one tensor, with the file it is in."""

    file: FileRecord
    sums: SquareSums | None = None
    """Set for weights only."""


@dataclass
class CommittedMeta(StorageMeta):
    """Brings the commit to all ranks in the result of the save; set after .metadata was written."""

    commit: Commit | None = None


class HashingStream:
    """A binary file that is only appended to, with the checksum of what was written."""

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
    """Keeps the hashing stream of each file that was written, by its name."""

    def __init__(self) -> None:
        self.streams: dict[str, HashingStream] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as file:
            stream = self.streams[Path(path).name] = HashingStream(file)  # pyright: ignore[reportArgumentType]
            yield stream


def _disk_error(error: Exception) -> Exception:
    """The OSError behind torch's own error about an archive it could not finish, if there is one."""
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

    @structured_logger.log_trace_span("checkpoint_write")
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> TorchFuture[list[WriteResult]]:
        written: list[WriteResult] = []
        for role in ("model", "state"):
            items = [item for item in plan.items if role_of_name(item.index.fqn) == role]
            if items:
                storage = replace(plan.storage_data, prefix=f"{plan.storage_data.prefix}{role}_")
                try:
                    part = super().write_data(replace(plan, items=items, storage_data=storage), planner).wait()
                except Exception as error:
                    raise _disk_error(error) from None
                sums = self._square_sums(items, planner) if role == "model" else {}
                written += [self._recorded(result, role, sums.get(result.index)) for result in part]
        sync_folder(Path(self.path))
        done: TorchFuture[list[WriteResult]] = TorchFuture()
        done.set_result(written)
        return done

    def _square_sums(self, items: list[WriteItem], planner: SavePlanner) -> dict[MetadataIndex, SquareSums]:
        """Sums of squares of the pieces of weights that this rank writes."""
        pieces = {item.index: planner.resolve_data(item) for item in items if item.type != WriteItemType.BYTE_IO}
        tensors = [piece.detach() for piece in pieces.values() if isinstance(piece, torch.Tensor)]
        sums = self.job.band.measure([index.fqn for index in pieces], tensors) if self.job.band.max_growth else []
        return dict(zip(pieces, sums, strict=False))

    def _recorded(self, result: WriteResult, role: Role, sums: SquareSums | None) -> RecordedWrite:
        name = result.storage_data.relative_path
        record = self.hashing.streams[name].record(name, role)
        return RecordedWrite(result.index, result.size_in_bytes, result.storage_data, record, sums)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        index = file_record(Path(self.path) / INDEX, INDEX, "index")
        written = [result for rank in results for result in rank if isinstance(result, RecordedWrite)]
        of_ranks = sorted({result.file for result in written}, key=lambda file: file.name)
        job = self.job
        files = (*of_ranks, index, *job.write_companions())
        sums = ((result.index.fqn, result.sums) for result in written if result.sums is not None)
        suspect = job.suspect or job.band.reason(sums)
        commit = Commit(job.step, job.kind, job.reason, time.time(), job.world_size, files, suspect)
        publish(job.checkpoint, commit)
        metadata.storage_meta = CommittedMeta(commit=commit)


@dataclass(frozen=True)
class SaveResult:
    """A save that has ended: with a commit, or with an error."""

    job: SaveJob
    commit: Commit | None = None
    error: str = ""


class Saver:
    """One save at a time; `start` begins it, `settle` ends it."""

    def __init__(self, async_mode: str) -> None:
        self.is_async = async_mode != "disabled"
        self._is_pinned = async_mode == "async_with_pinned_mem"
        self._group = cpu_group() if self.is_async else None
        self._stager: DefaultStager | None = None
        self._job: SaveJob | None = None
        self._written: Future[Metadata] | None = None
        self.staging: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._job is not None

    @property
    def is_writing(self) -> bool:
        """True while this rank's part runs in the background."""
        return self._written is not None and not self._written.done()

    def start(self, state: dict[str, Any], job: SaveJob, *, wait: bool) -> None:
        """Copy `state` and write it, in the background unless `wait`; errors are in the result of `settle`."""
        assert self._job is None, f"step {self._job} is still being saved"
        self._job, writer = job, CommittingWriter(job)
        if wait or not self.is_async:
            self._written = Future()
            try:
                self._written.set_result(dcp.save(state, storage_writer=writer))
            except CheckpointException as error:
                self._written.set_exception(error)
            return
        response = dcp.async_save(
            _stageable(state), storage_writer=writer, process_group=self._group, async_stager=self._kept_stager()
        )
        if isinstance(response, AsyncSaveResponse):
            self.staging, self._written = response.staging_completion, response.upload_completion  # pyright: ignore
        else:
            self._written = response

    def settle(self) -> SaveResult:
        """Wait for the save that was started; what a failed one has written is removed."""
        assert self._job is not None, "no save was started"
        assert self._written is not None, "no save was started"
        job, written = self._job, self._written
        self._job = self._written = None
        try:
            result = written.result().storage_meta
        except CheckpointException as error:
            if is_of_a_collective(error):
                raise  # the run ends with the rank that is lost, and the next start tidies up
            shutil.rmtree(partial_path(job.checkpoint), ignore_errors=True)
            rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
            return SaveResult(job, error=f"{type(cause).__name__} on rank {rank}: {cause}")
        assert isinstance(result, CommittedMeta), f"{type(result)} instead of CommittedMeta"
        assert result.commit is not None, "a save that ended without a commit"
        if not result.commit.suspect:
            job.band.accept()
        return SaveResult(job, result.commit)

    def wait_for_staging(self) -> None:
        """Wait for the copy of a pinned save; to be called before weights change."""
        if self.staging is not None:
            self.staging.result()
            self.staging = None

    def close(self) -> None:
        if self._stager is not None:
            self._stager.close()

    def _kept_stager(self) -> DefaultStager:
        """The stager, kept from save to save with its memory."""
        if self._stager is None:
            on_cuda = self._is_pinned and torch.cuda.is_available()
            self._stager = DefaultStager(StagingOptions(on_cuda, False, self._is_pinned, on_cuda))
        return self._stager


def _stageable(state: dict[str, Any]) -> dict[str, Any]:
    """The state with copies of DTensors that do not begin at the start of their storage.

    DCP's stager mistakes them for plain tensors: keys and values of a fused projection with one key-value head.
    """
    return {
        name: value.clone() if isinstance(value, DTensor) and value.storage_offset() else value
        for name, value in state.items()
    }
