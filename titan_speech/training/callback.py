"""What accompanies a run without changing it: uploads of checkpoints, exports, checks on generated speech, its end.

In: the events of a run, in the order of the methods below. Out: metrics. `run_callbacks` builds the callbacks of a
run and `trainer_config` hands them to the trainer, so the trainer imports none of them. `OutcomeCallback` reports how a
start of the run ended: ended (complete, or failed with the error), stopped or rolled back; a process that is killed
reports nothing.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from titan_speech.checkpoint.commit import Commit
from titan_speech.training.jsonl_log import JsonlLogger
from titan_speech.training.sinks.sink import Message, Sinks


class RunEnd(enum.Enum):
    """How a run of the trainer ended."""

    COMPLETE = "complete"
    """The token budget is used up."""
    STOPPED = "stopped"
    """The run was asked to stop, or goes back to an earlier checkpoint; it will be resumed."""
    FAILED = "failed"


class RunCallback:
    """Base of callbacks; each method may be left as it is."""

    def metrics(self) -> dict[str, float]:
        """More metrics of a log step; only those of rank 0 are logged."""
        return {}

    def step_boundary(self, step: int) -> None:
        """Called on every rank before the first step and after each one, when its save has begun.

        Args:
            step: steps done.
        """

    def checkpoint_complete(self, checkpoint: Path, commit: Commit) -> None:
        """Called on every rank, at a step boundary, once a checkpoint has its marker. Errors are logged, not raised.

        Args:
            checkpoint: its folder, .../step-N.
            commit: its marker: files, step, kind and reason.
        """

    def finish(self, end: RunEnd) -> None:
        """Called after the trainer is closed, and after the process group is destroyed unless the run failed.

        Args:
            end: how the run ended.
        """


class OutcomeCallback(RunCallback):
    """Built on every rank, as every node may have a sink; rank 0 writes and sends."""

    def __init__(
        self, sinks: Sinks, metrics_file: Path, num_steps: int, step: Callable[[], int], rollback: Callable[[], str]
    ) -> None:
        """
        Args:
            sinks: of this rank.
            metrics_file: metrics.jsonl, which the trainer has closed by then.
            num_steps: of the run.
            step: returns the steps done.
            rollback: returns the rollback that was decided as text; empty: none was.
        """
        self._sinks, self._metrics_file, self._num_steps = sinks, metrics_file, num_steps
        self._step, self._rollback = step, rollback
        self._is_first = torch.distributed.get_rank() == 0

    def finish(self, end: RunEnd) -> None:
        if self._is_first:
            message = self._message(end)
            log = JsonlLogger(self._metrics_file, warns=False)
            log.event("end", step=message.step, how=end.value, what=message.event, message=message.text)
            log.close()
            self._sinks.message(message)
        self._sinks.close()

    def _message(self, end: RunEnd) -> Message:
        step = self._step()
        if end is RunEnd.COMPLETE:
            return Message("ended", step, f"All {self._num_steps:,} steps are done.")
        if end is RunEnd.STOPPED and self._rollback():
            return Message("rolled_back", step, self._rollback())
        if end is RunEnd.STOPPED:
            return Message("stopped", step, f"It was asked to stop, {step:,} of {self._num_steps:,} steps are done.")
        error = sys.exception()
        return Message("ended", step, f"It failed: {type(error).__name__}: {error}")
