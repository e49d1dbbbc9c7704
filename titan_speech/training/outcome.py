"""How a start of the run ended: an `end` event in metrics.jsonl, a message to people, and the sinks closed.

In: the end of the trainer. Out: one event and one message: ended (complete, or failed with the error), stopped, rolled
back. A process that is killed leaves neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from titan_speech.training.callback import RunCallback, RunEnd
from titan_speech.training.jsonl_log import JsonlLogger
from titan_speech.training.sinks.sink import Message, Sinks


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
