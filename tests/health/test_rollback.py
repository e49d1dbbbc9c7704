"""A breach of a bound goes back to a checkpoint within it and lowers the rate, a bounded number of times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.config.test_budget import budget
from tests.support.checkpoint_folders import write_checkpoint
from tests.support.spawn import spawn
from titan_speech.checkpoint.commit import committed_steps
from titan_speech.config.schema_operations import HealthConfig
from titan_speech.errors import BoundsLeftError, HealthError
from titan_speech.health.rollback import ROLLBACKS_NAME, Rollbacks
from titan_speech.health.signals import StopRun
from titan_speech.training.lr_schedule import TokenBudgetSchedule

LAST_GOOD = "The last good checkpoint is step 2."


def breach(step: int, within_step: int) -> BoundsLeftError:
    return BoundsLeftError("It drifted.", found="drift 1 is above 0.5", step=step, within_step=within_step)


def go_back(run: Path, steps: list[tuple[int, int, int]]) -> None:
    """Breaches at a step, with a step within the bounds, and where each goes back to."""
    config = HealthConfig(max_breaches=len(steps))
    for number, (step, within_step, back_to) in enumerate(steps, 1):
        rollbacks = Rollbacks(config, run, run / "checkpoint")
        with pytest.raises(StopRun) as stop:
            rollbacks.lower_rate(breach(step, within_step), LAST_GOOD)
        assert f"back to step {back_to}, with 0.5 times the learning rate" in stop.value.reason
        rollbacks.carry_out()
        again = Rollbacks(config, run, run / "checkpoint")
        assert again.lr_factor == 0.5**number
        assert not any(again.skips(one) for one in range(10))
        (run / ROLLBACKS_NAME).rename(run / "kept.json")
        elsewhere = Rollbacks(config, run, run / "checkpoint")
        assert elsewhere.lr_factor == 1
        elsewhere.restore(again.to_json())  # as a checkpoint does
        assert elsewhere.lr_factor == 0.5**number
        (run / "kept.json").rename(run / ROLLBACKS_NAME)
    again = Rollbacks(config, run, run / "checkpoint")
    with pytest.raises(HealthError, match=rf"It drifted\. The rate was lowered {len(steps)} times\. {LAST_GOOD}"):
        again.lower_rate(breach(9, 8), LAST_GOOD)
    with pytest.raises(HealthError, match="the weights that the run starts from"):
        again.lower_rate(breach(0, 0), LAST_GOOD)


def test_a_breach_goes_back_to_a_checkpoint_within_the_bounds_and_not_twice_to_the_same(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        write_checkpoint(tmp_path / "checkpoint", step)
    spawn(1, go_back, tmp_path, [(7, 5, 4), (6, 4, 2), (3, 1, 0)])
    assert committed_steps(tmp_path / "checkpoint") == []
    assert [one["back_to"] for one in json.loads((tmp_path / ROLLBACKS_NAME).read_text())] == [4, 2, 0]


def test_a_lowered_rate_is_a_multiple_of_the_schedule_before_and_after_a_load() -> None:
    plan = budget(num_steps=8, warmup_ratio=0.25)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=plan.lr)
    schedule = TokenBudgetSchedule([optimizer], plan)  # pyright: ignore[reportArgumentType]
    for step in range(8):
        factor = 1.0 if step < 3 else 0.25
        schedule.scale(factor)
        if step == 5:
            schedule.load_state_dict({"last_epoch": 5})
        assert optimizer.param_groups[0]["lr"] == pytest.approx(factor * plan.learning_rate(step), rel=1e-12)
        optimizer.step()
        schedule.step()
