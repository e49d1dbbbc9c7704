"""What the host makes of each step: counts, limits, spikes, and whether the run goes on.

In: the readings of the guard, equal on all ranks and in the order of the steps. Out: figures for the log, the state
that a checkpoint carries, and at a step boundary the end of the run where one is due: on all ranks at the same step,
since all of them know the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchtitan.tools.logging import logger

from titan_speech.config.tables import HealthTable
from titan_speech.data.slots import slots_text
from titan_speech.errors import HealthError
from titan_speech.health.batch import BatchFinder, write_skipped
from titan_speech.health.guard import StepReading
from titan_speech.health.spikes import SpikeDetector


@dataclass(frozen=True)
class HealthState:
    """What a checkpoint keeps, so that a resumed run decides as one that was not cut."""

    skipped_steps: int = 0
    """Steps of the run whose update was left out, or which were passed over after a rollback."""

    recent_skips: tuple[int, ...] = ()
    """Those among the last health.skip_window_steps."""

    loss_spikes: int = 0

    losses: tuple[float, ...] = field(default=(), repr=False)
    """The window of the spike detector."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HealthState:
        record: dict[str, Any] = json.loads(text)
        return cls(**{**record, "recent_skips": tuple(record["recent_skips"]), "losses": tuple(record["losses"])})


class HealthMonitor:
    """One a rank; rank 0 writes and speaks."""

    def __init__(
        self, table: HealthTable, run_folder: Path, finder: BatchFinder, warmup_steps: int, is_first_rank: bool
    ) -> None:
        self.table, self.run_folder, self.finder, self.is_first_rank = table, run_folder, finder, is_first_rank
        self.spikes = SpikeDetector(table.spike_z, table.spike_window_steps, warmup_steps)
        self.last: StepReading | None = None
        self._state = HealthState()
        self._end: HealthError | None = None
        self.spike_to_roll_back: int | None = None

    def observe(self, readings: Iterable[StepReading]) -> None:
        for reading in readings:
            self.last = reading
            if reading.is_skipped:
                self._skipped(reading)
            elif self.spikes.sees_spike(reading.step, reading.loss):
                self._spiked(reading)

    def figures(self, step: int) -> dict[str, float]:
        """For the log: totals of the run, and the step's own loss, which is not a number if it was skipped."""
        assert self.last is not None
        assert self.last.step == step, f"step {step} is not settled, {self.last.step} is"
        return {
            "loss_of_step": self.last.loss,
            "skipped_steps": self._state.skipped_steps,
            "loss_spikes": self._state.loss_spikes,
        }

    def end_if_due(self) -> None:
        """At a step boundary: raises what ends the run, on all ranks alike."""
        if self._end is not None:
            raise self._end

    def passed_over(self, step: int) -> None:
        """A step whose data was read and dropped."""
        self._state = replace(self._state, skipped_steps=self._state.skipped_steps + 1)
        self._say(f"Step {step} is passed over, as a rollback asks for: slots {_span(self.finder.slots(step))}")

    @property
    def state(self) -> HealthState:
        return replace(self._state, losses=tuple(self.spikes.losses))

    def restore(self, state: HealthState) -> None:
        self._state = state
        self.spikes.restore(state.losses)

    def _skipped(self, reading: StepReading) -> None:
        first = reading.step - self.table.skip_window_steps + 1
        recent = (*(step for step in self._state.recent_skips if step >= first), reading.step)
        self._state = replace(self._state, skipped_steps=self._state.skipped_steps + 1, recent_skips=recent)
        where = self._written(reading)
        if len(recent) > self.table.max_skipped_steps:
            self._end = HealthError(
                f"{len(recent)} of the last {self.table.skip_window_steps:,} steps had a loss or gradient that is not "
                f"finite, the last one step {reading.step}, {where}; health.max_skipped_steps = "
                f"{self.table.max_skipped_steps}. Their updates were left out, so weights and checkpoints are sound. "
                "Look at the data named there, lower optimizer.lr, or raise the limit, and start again."
            )

    def _written(self, reading: StepReading) -> str:
        slots = self.finder.suspects(reading)
        what = "gradient" if not reading.gradient_is_finite else "loss"
        where = f"slots {slots_text(slots)}"
        if not self.is_first_rank:
            return where
        try:
            where = f"{where} (see {write_skipped(self.run_folder, self.finder, reading)})"
        except OSError as error:
            logger.warning(f"The batch of step {reading.step} could not be written down: {error}")
        logger.warning(f"Step {reading.step} is skipped, its {what} is not finite: {where}")
        return where

    def _say(self, message: str) -> None:
        if self.is_first_rank:
            logger.warning(message)

    def _spiked(self, reading: StepReading) -> None:
        self._state = replace(self._state, loss_spikes=self._state.loss_spikes + 1)
        slots = _span(self.finder.slots(reading.step))
        self._say(
            f"The loss jumped to {reading.loss:.4f} in step {reading.step}, slots {slots}: more than "
            f"{self.table.spike_z:g} robust deviations above the last {len(self.spikes.losses)} steps"
        )
        if self.table.on_spike == "rollback" and self.spike_to_roll_back is None:
            self.spike_to_roll_back = reading.step


def _span(slots: range) -> str:
    return f"{slots.start}-{slots.stop - 1}"
