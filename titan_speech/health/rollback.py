"""Rollbacks: after a loss spike the run goes back to a checkpoint and skips the data that came with the spike.

In: the step of the spike, the checkpoints that exist.
Out: RUN/health/rollbacks.json, which names the steps to skip; checkpoints newer than the one to go back to are renamed,
not deleted. The run then ends with EXIT_RESTART, and the same command resumes. Steps keep their slots: a skipped step
reads its data and leaves everything else as it is, so the data of a run is a function of the plan, the step and this
list, at any number of processes.

    [{"spike": 913, "back_to": 900, "first": 904, "last": 913}]
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from titan_speech.checkpoint.commit import ROLLED_BACK, committed_checkpoints, read_commit
from titan_speech.config.schema_operations import HealthConfig
from titan_speech.distributed.consensus import broadcast_from_rank_0, decide_on_rank_0
from titan_speech.errors import HealthError
from titan_speech.health.signals import StopRun
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import parse_json, read_json_file

ROLLBACKS_NAME = Path("health") / "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """One spike and the rollback that followed."""

    spike: int
    back_to: int
    first: int
    """First step that is skipped."""
    last: int


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

    def to_json(self) -> str:
        """What a checkpoint keeps of the rollbacks."""
        return json.dumps([asdict(one) for one in self.done])

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
        decided = self.decided = decide_on_rank_0(lambda: self._choose(spike), Rollback)
        raise StopRun(
            f"loss spike in step {spike}: going back to step {decided.back_to}, and skipping the data of steps "
            f"{decided.first} to {decided.last}"
        )

    def _choose(self, spike: int) -> Rollback:
        commits = {one.step: read_commit(one.path) for one in committed_checkpoints(self.checkpoints)}
        known = {step: commit for step, commit in commits.items() if commit is not None and not commit.suspect}
        full = [step for step, commit in known.items() if commit.kind == "full"]
        return choose(self.config, spike, full, len(self.done))

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
        records = [asdict(one) for one in (*self.done, self.decided)]
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
            f"{config.spike_skip_steps} asks for a full checkpoint before step {first}, and there is none; save more "
            "often, or set health.on_spike to warn"
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
