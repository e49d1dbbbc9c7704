"""What accompanies a run without changing it: uploads of checkpoints, exports, checks on generated speech.

In: the events of a run, in the order of the methods below. Out: metrics. `trainer_config` builds the callbacks of a run
and hands them to the trainer, so the trainer imports none of them.
"""

from __future__ import annotations

import enum
from pathlib import Path

from titan_speech.checkpoint.commit import Commit


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
