"""Saving in the background: training waits while the state is copied to memory, not while it is written.

In: a state dict and a `SaveJob`. Out: a `Commit`, or one error that every rank has, some steps later. The copy is one
more state in memory (12 bytes a parameter over all ranks with AdamW in fp32), kept from save to save. With
`async_with_pinned_mem` it is filled while the next step computes its gradients, and on CUDA it is page-locked.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse
from torch.distributed.tensor import DTensor

from titan_speech.checkpoint.agreement import cpu_group
from titan_speech.checkpoint.commit import Commit
from titan_speech.checkpoint.folder import discard_partial
from titan_speech.checkpoint.writer import CommittingWriter, SaveJob, commit_of


@dataclass(frozen=True)
class Ended:
    """A save that is over: with a commit, or with what went wrong."""

    job: SaveJob
    commit: Commit | None = None
    error: str = ""


class Saver:
    """One save at a time; `start` begins it, `settle` ends it."""

    def __init__(self, async_mode: str) -> None:
        self.is_async = async_mode != "disabled"
        self._copies_beside = async_mode == "async_with_pinned_mem"
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
        """Copy `state` and write it, in the background unless `wait`; what goes wrong then is said by `settle`."""
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
            _stageable(state), storage_writer=writer, process_group=self._group, async_stager=self._new_stager()
        )
        if isinstance(response, AsyncSaveResponse):
            self.staging, self._written = response.staging_completion, response.upload_completion  # pyright: ignore
        else:
            self._written = response

    def settle(self) -> Ended:
        """Wait for the save that was started; nothing of one that failed is left."""
        assert self._job is not None, "no save was started"
        assert self._written is not None, "no save was started"
        job, written = self._job, self._written
        self._job = self._written = None
        try:
            return Ended(job, commit_of(written.result()))
        except CheckpointException as error:
            discard_partial(job.checkpoint)
            return Ended(job, error=_first_failure(error))

    def wait_for_staging(self) -> None:
        """Before weights change: the copy of a pinned save may still be running."""
        if self.staging is not None:
            self.staging.result()
            self.staging = None

    def close(self) -> None:
        if self._stager is not None:
            self._stager.close()

    def _new_stager(self) -> DefaultStager:
        """Kept from save to save, and its memory with it."""
        if self._stager is None:
            is_pinned = self._copies_beside and torch.cuda.is_available()
            self._stager = DefaultStager(StagingOptions(is_pinned, False, self._copies_beside, is_pinned))
        return self._stager


def _stageable(state: dict[str, Any]) -> dict[str, Any]:
    """Copies of DTensors that begin behind the start of a storage, which DCP's stager takes for plain tensors.

    Such are keys and values of a fused projection with one key-value head, in its state dict.
    """
    return {
        name: value.clone() if isinstance(value, DTensor) and value.storage_offset() else value
        for name, value in state.items()
    }


def _first_failure(error: CheckpointException) -> str:
    rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
    return f"{type(cause).__name__} on rank {rank}: {cause}"
