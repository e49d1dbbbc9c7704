"""What the host makes of each step: counts, limits, loss spikes, the record of a skipped batch, the end of the run.

In: the readings of the step guard (training/step_guard.py), equal on all ranks and in the order of the steps.
Out: values for the log, the state that a checkpoint keeps, RUN/health/skipped-step-N.json for each skipped step, and at
a step boundary the end of the run where one is due: on all ranks at the same step, since all of them know the same.

A spike is a loss above the median of a window by more than `z` robust standard deviations (1.4826 times the median
absolute deviation, at least half a percent of the median, so that a quiet run does not call noise a spike). Until the
window is full nothing is a spike; steps of the warmup do not fill it. The cost is two medians of a hundred floats per
step, 20 us on the host.
"""

from __future__ import annotations

import json
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchtitan.tools.logging import logger

from titan_speech.config.schema_operations import HealthConfig
from titan_speech.data.plan import DataPlan
from titan_speech.data.slots import StepShape, slots_text
from titan_speech.errors import HealthError
from titan_speech.training.step_guard import StepReading
from titan_speech.utils.json_text import parse_json

MAD_TO_STD = 1.4826
MIN_STD = 0.005
"""Fraction of the median."""


class SpikeDetector:
    """Compares each loss with a window of earlier losses; `z` = 0 never sees a spike."""

    def __init__(self, z: float, window_steps: int, warmup_steps: int) -> None:
        self.z, self.warmup_steps = z, warmup_steps
        self.losses: deque[float] = deque(maxlen=window_steps)

    def sees_spike(self, step: int, loss: float) -> bool:
        """Adds the loss to the window, spike or not: a level that stays becomes the usual one."""
        if step <= self.warmup_steps or not self.z:
            return False
        is_spike = len(self.losses) == self.losses.maxlen and loss > self.limit()
        self.losses.append(loss)
        return is_spike

    def limit(self) -> float:
        """Largest loss that does not count as a spike."""
        middle = statistics.median(self.losses)
        deviation = statistics.median(abs(loss - middle) for loss in self.losses)
        return middle + self.z * max(MAD_TO_STD * deviation, MIN_STD * abs(middle))

    def restore(self, losses: Iterable[float]) -> None:
        self.losses = deque(losses, maxlen=self.losses.maxlen)


HEALTH_DIR = "health"


@dataclass(frozen=True)
class BatchFinder:
    """Which slots a rank computed in a step."""

    plan: DataPlan
    shape: StepShape
    ranks_per_sequence: int
    """Ranks that compute the same packs (tensor and context parallel)."""

    def slots(self, step: int) -> range:
        """All slots of a step, steps counted from 1 as the trainer does."""
        return self.plan.phase.slots(step - 1)

    def slots_of(self, step: int, rank: int) -> list[int]:
        slots = self.slots(step)
        dp_rank = rank // self.ranks_per_sequence % self.shape.dp_degree
        keys = self.plan.locality_keys(slots.start, len(slots))
        return sorted(slots.start + i for i in self.shape.slots_of_rank(keys, dp_rank))

    def suspects(self, reading: StepReading) -> list[int]:
        """Slots of the ranks whose loss was not finite; all slots of the step if no rank is known."""
        of_ranks = {slot for rank in reading.bad_ranks for slot in self.slots_of(reading.step, rank)}
        return sorted(of_ranks) or list(self.slots(reading.step))

    def samples(self, slots: list[int]) -> list[dict[str, Any]]:
        """The samples in each slot; reads sidecars."""
        packs = [self.plan.pack(slot) for slot in slots]
        return [
            {
                "slot": pack.slot,
                "stream": self.plan.streams[pack.stream].name,
                "samples": [f"{ref.part}/{'+'.join(ref.sample_ids)}" for ref in self.plan.sample_refs(pack)],
            }
            for pack in packs
        ]


def write_skipped(folder: Path, finder: BatchFinder, reading: StepReading) -> Path:
    """Record a skipped step of the run in `folder`; numbers that are not finite are written as text.

    The record has the slots, their samples and the command that prints them. Where the loss of single ranks was not
    finite, only the slots of those ranks are suspects.
    """
    slots = finder.slots(reading.step)
    suspects = finder.suspects(reading)
    record = {
        "step": reading.step,
        "loss": repr(reading.loss),
        "gradient": "finite" if reading.gradient_is_finite else "not finite",
        "ranks": list(reading.bad_ranks),
        "slots": [slots.start, slots.stop - 1],
        "suspect_slots": suspects,
        "show": f"titan-speech data show --job.config_file {folder}/config.toml --slots {slots_text(suspects)}",
        "packs": finder.samples(suspects),
    }
    path = folder / HEALTH_DIR / f"skipped-step-{reading.step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class HealthState:
    """What a checkpoint keeps, so that a resumed run decides as one that was not interrupted."""

    skipped_steps: int = 0
    """Steps of the run whose update was skipped, or which were skipped after a rollback."""

    recent_skips: tuple[int, ...] = ()
    """Those among the last health.skip_window_steps."""

    loss_spikes: int = 0

    losses: tuple[float, ...] = field(default=(), repr=False)
    """The window of the spike detector."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HealthState:
        record: dict[str, Any] = parse_json(text)
        return cls(**{**record, "recent_skips": tuple(record["recent_skips"]), "losses": tuple(record["losses"])})


class HealthMonitor:
    """One per rank; rank 0 writes and logs."""

    def __init__(
        self,
        config: HealthConfig,
        run_folder: Path,
        finder: BatchFinder,
        warmup_steps: int,
        is_first_rank: bool,
        flag: Callable[[str, int, str], None],
    ) -> None:
        """`flag` is called on every rank with what, step and text of a spike."""
        self.config, self.run_folder, self.finder, self.is_first_rank = config, run_folder, finder, is_first_rank
        self.flag = flag
        self.spikes = SpikeDetector(config.spike_z, config.spike_window_steps, warmup_steps)
        self.last: StepReading | None = None
        self._state = HealthState()
        self._end = ""
        self._last_applied_step = 0
        self.spike_to_roll_back: int | None = None

    def observe(self, readings: Iterable[StepReading]) -> None:
        for reading in readings:
            self.last = reading
            if reading.is_skipped:
                self._skipped(reading)
                continue
            self._last_applied_step = reading.step
            if self.spikes.sees_spike(reading.step, reading.loss):
                self._spiked(reading)

    def figures(self, step: int) -> dict[str, float]:
        """Metrics: totals of the run, and the loss of the step, which is NaN or infinite if it was skipped."""
        assert self.last is not None
        assert self.last.step == step, f"step {step} is not settled, {self.last.step} is"
        return {
            "loss_of_step": self.last.loss,
            "skipped_steps": self._state.skipped_steps,
            "loss_spikes": self._state.loss_spikes,
        }

    def end_if_due(self, last_good: Callable[[], str]) -> None:
        """At a step boundary, on all ranks alike.

        Args:
            last_good: which checkpoint a restart resumes from.

        Raises:
            HealthError: too many steps were skipped.
        """
        if self._end:
            raise HealthError(f"{self._end} {last_good()}")

    def only_skipped_since(self, step: int) -> bool:
        """Whether steps after `step` were skipped because of what they computed, and none was applied."""
        return self._last_applied_step <= step < max(self._state.recent_skips, default=0)

    def skipped_by_rollback(self, step: int) -> None:
        """Count a step whose data was read and dropped."""
        self._state = replace(self._state, skipped_steps=self._state.skipped_steps + 1)
        if self.is_first_rank:
            logger.warning(f"Step {step} is skipped because of a rollback: slots {_span(self.finder.slots(step))}")

    @property
    def state(self) -> HealthState:
        return replace(self._state, losses=tuple(self.spikes.losses))

    def restore(self, state: HealthState) -> None:
        self._state = state
        self.spikes.restore(state.losses)

    def _skipped(self, reading: StepReading) -> None:
        first = reading.step - self.config.skip_window_steps + 1
        recent = (*(step for step in self._state.recent_skips if step >= first), reading.step)
        self._state = replace(self._state, skipped_steps=self._state.skipped_steps + 1, recent_skips=recent)
        where = self._record_batch(reading)
        if len(recent) > self.config.max_skipped_steps:
            self._end = (
                f"{len(recent)} of the last {self.config.skip_window_steps:,} steps had a loss or gradient that is not "
                f"finite, the last one step {reading.step}, {where}; health.max_skipped_steps = "
                f"{self.config.max_skipped_steps}. Look at the data named there; if it is as it should be, lower "
                "optimizer.lr or training.max_norm."
            )

    def _record_batch(self, reading: StepReading) -> str:
        slots = self.finder.suspects(reading)
        what = "gradient" if not reading.gradient_is_finite else "loss"
        where = f"slots {slots_text(slots)}"
        if not self.is_first_rank:
            return where
        try:
            where = f"{where} (see {write_skipped(self.run_folder, self.finder, reading)})"
        except OSError as error:
            logger.warning(f"The batch of step {reading.step} could not be recorded: {error}")
        logger.warning(f"Step {reading.step} is skipped, its {what} is not finite: {where}")
        return where

    def _spiked(self, reading: StepReading) -> None:
        self._state = replace(self._state, loss_spikes=self._state.loss_spikes + 1)
        slots = _span(self.finder.slots(reading.step))
        self.flag(
            "the spike detector",
            reading.step,
            f"The loss jumped to {reading.loss:.4f} in step {reading.step}, slots {slots}: more than "
            f"{self.config.spike_z:g} robust deviations above the last {len(self.spikes.losses)} steps",
        )
        if self.config.on_spike == "rollback" and self.spike_to_roll_back is None:
            self.spike_to_roll_back = reading.step


def _span(slots: range) -> str:
    return f"{slots.start}-{slots.stop - 1}"
