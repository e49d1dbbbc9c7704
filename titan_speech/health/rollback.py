"""Rollbacks: after a loss spike the run goes back to a checkpoint and passes over the data that came with it.

In: the step of the spike, the checkpoints there are. Out: RUN/health/rollbacks.json, which names the steps to pass
over, and no checkpoint newer than the one to go back to (those are renamed, not deleted). The run then ends with
EXIT_RESTART and the same command goes on. Steps keep their slots: a step that is passed over reads its data and leaves
everything else as it is, so the data of a run is a function of the plan, the step and this list, at any number of
processes.

    [{"spike": 913, "back_to": 900, "first": 904, "last": 913}]
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from titan_speech.checkpoint.commit import ROLLED_BACK, checkpoint_path, committed_steps, read_commit, write_durably
from titan_speech.config.schema_operations import HealthConfig
from titan_speech.errors import HealthError
from titan_speech.health.signals import StopRun

ROLLBACKS_NAME = Path("health") / "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """One spike and what became of it."""

    spike: int
    back_to: int
    first: int
    """First step that is passed over."""
    last: int


class Rollbacks:
    """Those of a run; every rank knows them."""

    def __init__(self, table: HealthConfig, run_folder: Path, checkpoints: Path) -> None:
        self.table, self.run_folder, self.checkpoints = table, run_folder, checkpoints
        self.is_first_rank = torch.distributed.get_rank() == 0
        self.done: tuple[Rollback, ...] = _told(read_rollbacks(run_folder) if self.is_first_rank else ())
        self._next: Rollback | None = None

    def passes(self, step: int) -> bool:
        """Whether the step's data is passed over."""
        return any(one.first <= step <= one.last for one in self.done)

    def to_json(self) -> str:
        """What a checkpoint keeps of them."""
        return json.dumps([asdict(one) for one in self.done])

    def restore(self, text: str) -> None:
        """Add those a checkpoint knows, whose run folder may have been another."""
        known = {*self.done, *(Rollback(**record) for record in json.loads(text))}
        self.done = tuple(sorted(known, key=lambda one: (one.spike, one.back_to)))

    def decide(self, spike: int) -> None:
        """On all ranks at a step boundary.

        Raises:
            LeaveRun: the run goes back; `carry_out` when the last save has ended.
            HealthError: it cannot.
        """
        decision = _told(self._decision(spike) if self.is_first_rank else None)
        if isinstance(decision, HealthError):
            raise decision
        assert decision is not None, "rank 0 decides"
        self._next = decision
        raise StopRun(
            f"loss spike in step {spike}: going back to step {decision.back_to}, and passing over the data of steps "
            f"{decision.first} to {decision.last}"
        )

    def _decision(self, spike: int) -> Rollback | HealthError:
        steps = committed_steps(self.checkpoints)
        full = [step for step in steps if _is_full(checkpoint_path(self.checkpoints, step))]
        try:
            return choose(self.table, spike, full, len(self.done))
        except HealthError as error:
            return error

    def carry_out(self) -> None:
        """After the last save has ended. A kill in the middle costs the rollback, which then happens again."""
        if self._next is None or not self.is_first_rank:
            return
        for step in committed_steps(self.checkpoints):
            if step > self._next.back_to:
                path = checkpoint_path(self.checkpoints, step)
                retired = path.with_name(path.name + ROLLED_BACK)
                shutil.rmtree(retired, ignore_errors=True)
                path.replace(retired)
        records = [asdict(one) for one in (*self.done, self._next)]
        write_durably(self.run_folder / ROLLBACKS_NAME, json.dumps(records, indent=1) + "\n")


def choose(table: HealthConfig, spike: int, steps: Sequence[int], num_done: int) -> Rollback:
    """Back to the newest of the checkpointed `steps` before those that are passed over, the last of which is the spike.

    Raises:
        HealthError: there is none, or there were `num_done` rollbacks already, which is the most.
    """
    first = max(1, spike - table.spike_skip_steps + 1)
    older = [step for step in steps if step < first]
    if num_done >= table.max_rollbacks:
        raise HealthError(
            f"the loss spiked again in step {spike} after {num_done} rollbacks, the most that health.max_rollbacks "
            "allows; look at the data and at optimizer.lr, raise the limit, or set health.on_spike to warn"
        )
    if not older:
        raise HealthError(
            f"the loss spike of step {spike} cannot be rolled back: health.spike_skip_steps = {table.spike_skip_steps} "
            f"asks for a full checkpoint before step {first}, and there is none; save more often, or set "
            "health.on_spike to warn"
        )
    return Rollback(spike, max(older), first, spike)


def read_rollbacks(run_folder: Path) -> tuple[Rollback, ...]:
    """Those of the run so far.

    Raises:
        HealthError: the file is damaged.
    """
    path = run_folder / ROLLBACKS_NAME
    if not path.exists():
        return ()
    try:
        return tuple(Rollback(**record) for record in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise HealthError(
            f"{path} is damaged ({error}): it says which steps are passed over; restore it, or remove it to train on "
            "all data"
        ) from error


def _is_full(checkpoint: Path) -> bool:
    commit = read_commit(checkpoint)
    return commit is not None and commit.kind == "full"


def _told(of_rank_0: Any) -> Any:
    """What rank 0 hands in, on every rank."""
    told = [of_rank_0]
    torch.distributed.broadcast_object_list(told, src=0)
    return told[0]
