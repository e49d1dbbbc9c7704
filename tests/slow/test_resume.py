"""Resume equals uninterrupted, at the same and at another number of processes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from tests.support.runs import SMALL, assert_close, figures, losses, train, train_and_kill_after, train_well
from titan_speech.config.budget import Budget
from titan_speech.preflight.config_checks import load_config


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    train_well(folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(whole_run: Path) -> dict[int, dict]:
    return figures(whole_run)


def test_the_logged_learning_rates_are_those_of_the_closed_form(uninterrupted: dict[int, dict]) -> None:
    plan = Budget.from_config(load_config(["--job.config_file", SMALL]).config)
    assert (plan.num_steps, plan.warmup_steps) == (12, 1)
    rates = {step: record["lr"] for step, record in uninterrupted.items()}
    assert rates == pytest.approx({step: plan.learning_rate(step - 1) for step in range(1, 13)}, rel=1e-9)
    middle = 2e-4 + (2e-3 - 2e-4) * (1 + math.cos(math.pi * 6 / 11)) / 2
    assert [rates[1], rates[7], rates[12]] == pytest.approx([2e-3, middle, 2e-4], rel=1e-9)


def test_killed_and_resumed_gives_the_losses_of_an_uninterrupted_run_to_the_last_bit(
    uninterrupted: dict[int, dict], tmp_path: Path
) -> None:
    train_and_kill_after(tmp_path, step=6)
    first_part = losses(figures(tmp_path))
    resumed = losses(train_well(tmp_path))
    expected = losses(uninterrupted)
    assert sorted(expected) == list(range(1, 13))
    assert resumed == expected
    assert all(first_part[step] == expected[step] for step in range(1, 7))
    assert "starts from      step 5 of" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resumed_on_another_number_of_processes_gives_equal_batches_and_close_losses(
    uninterrupted: dict[int, dict], tmp_path: Path, before: int, after: int
) -> None:
    train_and_kill_after(tmp_path, 6, world_size=before)
    resumed = train_well(tmp_path, world_size=after)
    assert_close(losses(resumed), losses(uninterrupted))  # equal batches: each group has the same tokens


def test_a_checkpoint_of_another_plan_is_refused_with_what_changed(whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    before = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    records = [(tmp_path / name).read_bytes() for name in ("config.toml", "metrics.jsonl")]
    finished = train(tmp_path, "--data.seed", "1")
    assert finished.returncode != 0
    message = finished.output.rsplit("titan_speech: ", 1)[-1]
    assert "the data plan is not the one" in message
    assert "seed 0 -> 1" in message
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == before
    assert [(tmp_path / name).read_bytes() for name in ("config.toml", "metrics.jsonl")] == records


@pytest.mark.slow
def test_a_run_of_two_phases_killed_around_the_border_gives_the_losses_of_one_that_was_not(tmp_path: Path) -> None:
    phase = ("--data.phase", "long", "--training.seq_len", "512", "--checkpoint.cadence.0.every", "2")
    train_and_kill_after(tmp_path / "a", 6)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    straight = train_well(tmp_path / "a", *phase)
    train_and_kill_after(tmp_path / "b", 8, *phase)
    resumed = train_well(tmp_path / "b", *phase, world_size=2)
    assert_close(losses(resumed), losses(straight))
    phases = [sorted(path.name for path in (tmp_path / name / "data_phases").iterdir()) for name in "ab"]
    assert phases[0] == phases[1]
    assert len(phases[0]) == 2
