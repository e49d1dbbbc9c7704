"""Rollbacks: after a loss spike the run goes back to a checkpoint and skips the data that came with the spike. After a
breach (preference.max_drift or a bound of the generation check was left) it goes back and continues with a lower rate.

In: the step of the spike or breach, the checkpoints that exist.
Out: RUN/health/rollbacks.json, which names the steps to skip and the breaches; checkpoints newer than the one to go
back to are renamed, not deleted. The run then ends with EXIT_RESTART, and the same command resumes. Steps keep their
slots: a skipped step reads its data and leaves everything else as it is, so the data of a run is a function of the
plan, the step and this list, at any number of processes. So is its learning rate: the schedule's, times `LOWER_BY` for
each breach. Checkpoints keep the list.

    [{"spike": 913, "back_to": 900, "first": 904, "last": 913},
     {"spike": 60, "back_to": 40, "first": 41, "last": 40, "breach": "+0.52 nats per token from the reference, ..."}]
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.checkpoint.commit import committed_checkpoints, read_commit
from titan_speech.checkpoint.folders import ROLLED_BACK
from titan_speech.config.schema_operations import HealthConfig
from titan_speech.data.plan import DataPlan
from titan_speech.distributed.consensus import broadcast_from_rank_0, decide_on_rank_0
from titan_speech.errors import BoundsLeftError, HealthError
from titan_speech.health.signals import StopRun
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import parse_json, read_json_file
from titan_speech.utils.text_table import counted

ROLLBACKS_NAME = Path("health") / "rollbacks.json"
LOWER_BY = 0.5
"""The learning rate after a breach, of the rate before it."""


@dataclass(frozen=True)
class Rollback:
    """One spike or breach, and the rollback that followed."""

    spike: int
    """Its step."""
    back_to: int
    first: int
    """First step that is skipped; after a breach none is, so `last` is the step before."""
    last: int
    breach: str = ""
    """Which bound was left, in words; empty: the loss spiked."""

    def __str__(self) -> str:
        back = f"back to step {self.back_to:,}"
        if self.breach:
            return (
                f"bounds left at step {self.spike:,}: {self.breach}; {back}, with {LOWER_BY:g} times the learning rate"
            )
        skipped = f"the data of steps {self.first:,} to {self.last:,} is skipped"
        return f"loss spike in step {self.spike:,}: {back}, and {skipped}"

    @property
    def record(self) -> dict[str, int | str]:
        """The fields as JSON has them."""
        return {name: value for name, value in asdict(self).items() if value != ""}


class Rollbacks:
    """The rollbacks of a run, equal on every rank."""

    def __init__(self, config: HealthConfig, run_folder: Path, checkpoints: Path) -> None:
        self.config, self.run_folder, self.checkpoints = config, run_folder, checkpoints
        self.is_first_rank = torch.distributed.get_rank() == 0
        self.done = broadcast_from_rank_0(read_rollbacks(run_folder) if self.is_first_rank else (), Rollback)
        self.decided: Rollback | None = None
        """What `carry_out` does once the trainer has closed."""

    def skips(self, step: int) -> bool:
        """Whether the data of a step is skipped."""
        return any(one.first <= step <= one.last for one in self.done)

    def planned_packs(self, plan: DataPlan, after: int, until: int) -> NDArray[np.int64]:
        """Packs of each stream that the plan gives the steps after + 1 to until, without those that are skipped."""
        planned_S = plan.packs_of_steps(after, until)
        for step in range(after, until) if self.done else ():
            if self.skips(step + 1):
                planned_S = planned_S - plan.packs_of_steps(step, step + 1)
        return planned_S

    @property
    def num_breaches(self) -> int:
        return sum(1 for one in self.done if one.breach)

    @property
    def lr_factor(self) -> float:
        """The learning rate, as a multiple of the schedule's."""
        return LOWER_BY**self.num_breaches

    def to_json(self) -> str:
        """What a checkpoint keeps of the rollbacks."""
        return json.dumps([one.record for one in self.done])

    def restore(self, text: str) -> None:
        """Add the rollbacks that a checkpoint records; its run folder may have been another."""
        known = {*self.done, *(Rollback(**record) for record in parse_json(text))}
        self.done = tuple(sorted(known, key=lambda one: (one.spike, one.back_to)))

    def decide(self, spike: int) -> None:
        """Decide on a rollback, on all ranks at a step boundary.

        Raises:
            StopRun: the run goes back; call `carry_out` when the last save has ended.
            HealthError: it cannot.
        """
        num_done = len(self.done) - self.num_breaches
        self.decided = decide_on_rank_0(lambda: choose(self.config, spike, self._full_steps(), num_done), Rollback)
        raise StopRun(str(self.decided))

    def lower_rate(self, breach: BoundsLeftError, last_good: str) -> NoReturn:
        """Go back to where the bounds were kept, with a lower rate; on all ranks alike, when no save is being written.

        Args:
            breach: what was found.
            last_good: the last checkpoint within the bounds, in words.

        Raises:
            StopRun: the run goes back; call `carry_out` when the trainer has closed.
            HealthError: the bounds were left before the first step, or once too often.
        """
        if breach.step == 0:
            raise HealthError(f"{breach} These are the weights that the run starts from: give bounds that they keep")
        if self.num_breaches >= self.config.max_breaches:
            lowered = f"The rate was lowered {counted(self.num_breaches, 'time')}. " if self.num_breaches else ""
            raise HealthError(f"{breach} {lowered}{last_good}")
        self.decided = decide_on_rank_0(lambda: self._within_bounds(breach), Rollback)
        raise StopRun(str(self.decided))

    def _within_bounds(self, breach: BoundsLeftError) -> Rollback:
        """Back to the newest checkpoint whose weights were within, or to the start of the run; not to one from which
        the bounds were left once more, since it was too close to them."""
        good = sorted(step for step in self._full_steps() if step <= breach.within_step)
        if good and self.done and self.done[-1].breach and good[-1] == self.done[-1].back_to:
            good.pop()
        back_to = good[-1] if good else 0
        return Rollback(breach.step, back_to, back_to + 1, back_to, breach.found)

    def _full_steps(self) -> list[int]:
        commits = {one.step: read_commit(one.path) for one in committed_checkpoints(self.checkpoints)}
        known = {step: commit for step, commit in commits.items() if commit is not None and not commit.suspect}
        return [step for step, commit in known.items() if commit.kind == "full"]

    def carry_out(self) -> None:
        """Rename newer checkpoints and record the rollback, after the last save has ended.

        A kill in between costs the rollback, which then happens again.
        """
        if self.decided is None or not self.is_first_rank:
            return
        for checkpoint in committed_checkpoints(self.checkpoints):
            if checkpoint.step > self.decided.back_to:
                retired = checkpoint.path.with_name(checkpoint.path.name + ROLLED_BACK)
                shutil.rmtree(retired, ignore_errors=True)
                checkpoint.path.replace(retired)
        records = [one.record for one in (*self.done, self.decided)]
        write_atomically(self.run_folder / ROLLBACKS_NAME, json.dumps(records, indent=1) + "\n")


def choose(config: HealthConfig, spike: int, steps: Sequence[int], num_done: int) -> Rollback:
    """The rollback to the newest checkpoint before the steps that are skipped, the last of which is the spike.

    Args:
        steps: steps that have a full checkpoint.
        num_done: rollbacks of the run so far.

    Raises:
        HealthError: there is no such checkpoint, or health.max_rollbacks is reached.
    """
    first = max(1, spike - config.spike_skip_steps + 1)
    older = [step for step in steps if step < first]
    if num_done >= config.max_rollbacks:
        raise HealthError(
            f"the loss spiked again in step {spike} after {num_done} rollbacks, the most that health.max_rollbacks "
            "allows; look at the data and at optimizer.lr, raise the limit, or set health.on_spike to warn"
        )
    if not older:
        raise HealthError(
            f"the loss spike of step {spike} cannot be rolled back: health.spike_skip_steps = "
            f"{config.spike_skip_steps} asks for a full checkpoint before step {first}, and no such one is stored; "
            "save more often, or set health.on_spike to warn"
        )
    return Rollback(spike, max(older), first, spike)


def read_rollbacks(run_folder: Path) -> tuple[Rollback, ...]:
    """The rollbacks of the run so far.

    Raises:
        HealthError: the file is damaged.
    """
    path = run_folder / ROLLBACKS_NAME
    if not path.exists():
        return ()
    try:
        return tuple(Rollback(**record) for record in read_json_file(path))
    except (ValueError, TypeError) as error:
        raise HealthError(
            f"{path} is damaged ({error}): it names the steps to skip; restore it, or remove it to train on all data"
        ) from error
