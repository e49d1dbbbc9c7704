"""Steps that must not count: nothing of them stays, all ranks agree, and the batch can be found again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torchtitan.components.optimizer import ParamGroupConfig

from tests.support.runs import ROOT, SMALL, figures, train
from tests.support.warm import start_warm
from titan_speech.cli.arguments import naturals
from titan_speech.data.plan import DataPlan
from titan_speech.data.slots import slots_text
from titan_speech.exit_codes import EXIT_UNHEALTHY
from titan_speech.health.monitor import HealthState, SpikeDetector
from titan_speech.preflight.config_checks import load_config
from titan_speech.training.loss import GroupSums
from titan_speech.training.optimizer import GuardedOptimizers
from titan_speech.training.step_guard import StepGuard

NAN, INF = math.nan, math.inf


@pytest.fixture
def world_of_one() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def guarded(implementation: str) -> tuple[nn.Module, GuardedOptimizers]:
    model = nn.Linear(4, 4)
    config = GuardedOptimizers.Config(
        implementation=implementation,  # pyright: ignore[reportArgumentType]
        param_groups=[ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs={"lr": 0.1})],
    )
    optimizers = config.build(model_parts=[model])
    optimizers.guard = StepGuard(torch.device("cpu"), 1, GroupSums(1))
    return model, optimizers


def step(model: nn.Module, optimizers: GuardedOptimizers, number: int, loss_factor: float, added: float = 0.0) -> None:
    optimizers.zero_grad()
    loss = model(torch.ones(2, 4)).square().sum() * loss_factor
    loss.backward()
    assert optimizers.guard is not None
    optimizers.guard.add_loss(loss.detach() + added)
    optimizers.guard.judge(number, model.parameters())
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizers.step()


def everything(model: nn.Module, optimizers: GuardedOptimizers) -> list[torch.Tensor]:
    """Weights, moments and step counters."""
    (optimizer,) = optimizers.optimizers
    state = [tensor for of_one in optimizer.state.values() for tensor in of_one.values()]
    return [tensor.clone() for tensor in (*model.parameters(), *state)]


@pytest.mark.parametrize("implementation", ["fused", "foreach", "for-loop"])
@pytest.mark.parametrize(
    ("factor", "added", "gradient_is_finite"),
    [(NAN, 0.0, False), (INF, 0.0, False), (1e25, 0.0, False), (1.0, INF, True)],
    ids=["nan", "inf", "norm-overflows", "loss-alone"],
)
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments_nor_counters(
    world_of_one: None, implementation: str, factor: float, added: float, gradient_is_finite: bool
) -> None:
    model, optimizers = guarded(implementation)
    step(model, optimizers, 1, 1.0)
    before = everything(model, optimizers)
    step(model, optimizers, 2, factor, added)
    assert all(torch.equal(*pair) for pair in zip(before, everything(model, optimizers), strict=True))
    step(model, optimizers, 3, 1.0)
    assert not any(torch.equal(*pair) for pair in zip(before, everything(model, optimizers), strict=True))
    assert optimizers.guard is not None
    first, second, third = optimizers.guard.readings()
    assert [first.is_skipped, second.is_skipped, third.is_skipped] == [False, True, False]
    assert (second.step, second.gradient_is_finite) == (2, gradient_is_finite)
    assert second.bad_ranks == (() if math.isfinite(factor) and not added else (0,))


def test_a_spike_is_told_from_noise_and_a_level_that_stays_becomes_usual() -> None:
    detector = SpikeDetector(z=8.0, window_steps=20, warmup_steps=5)
    noise = [0.01 * ((7 * i) % 11 - 5) for i in range(100)]
    assert not any(detector.sees_spike(i, 100.0) for i in range(1, 6))  # the warmup
    assert not any(detector.sees_spike(6 + i, 3.0 + noise[i]) for i in range(40))
    assert not detector.sees_spike(46, 3.1)
    assert detector.sees_spike(47, 3.5)
    seen = [detector.sees_spike(48 + i, 4.0 + noise[i]) for i in range(40)]
    assert seen[0]
    assert not any(seen[20:])
    assert not any(SpikeDetector(z=0, window_steps=20, warmup_steps=0).sees_spike(i, 10.0**i) for i in range(30))


def test_health_goes_through_a_checkpoint_and_slots_through_the_command_line() -> None:
    state = HealthState(skipped_steps=3, recent_skips=(4, 9), loss_spikes=1, losses=(1.25, 0.1))
    assert HealthState.from_json(state.to_json()) == state
    assert slots_text([0, 4, 5, 6, 9]) == "0,4-6,9"
    assert naturals("0,4-6,9") == (0, 4, 5, 6, 9)


def test_a_run_skips_names_the_batch_stops_at_its_limit_and_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--training.target_tokens", "3072", "--training.global_batch_tokens", "512")
    settings = (*small, "--training.local_batch_packs", "1", "--checkpoint.cadence.0.every", "2")
    monkeypatch.setenv("POISON", "3:1:nan,5:0:huge")
    stopped = train(
        *(tmp_path, *settings, "--health.max_skipped_steps", "1"),
        world_size=2,
        entry="tests/support/poisoned_train.py",
        start=start_warm,
    )
    assert stopped.returncode == EXIT_UNHEALTHY
    assert "2 of the last 100 steps had a loss or gradient that is not finite" in stopped.output
    records = figures(tmp_path)
    assert [records[i]["skipped_steps"] for i in range(1, 6)] == [0, 0, 1, 1, 2]
    assert [records[i]["loss"] is None for i in range(1, 6)] == [False, False, True, False, True]

    found = json.loads((tmp_path / "health" / "skipped-step-3.json").read_text())
    (slot,) = found["suspect_slots"]
    assert (found["ranks"], found["slots"], found["gradient"]) == ([1], [4, 5], "not finite")
    assert found["show"].endswith(f"--slots {slot}")
    plan = DataPlan.load(load_config(["--job.config_file", str(ROOT / SMALL), *settings]).config)
    expected = [f"{ref.part}/{'+'.join(ref.sample_ids)}" for ref in plan.sample_refs(plan.pack(slot))]
    assert found["packs"][0]["samples"] == expected
    assert json.loads((tmp_path / "health" / "skipped-step-5.json").read_text())["suspect_slots"] == [8, 9]

    monkeypatch.delenv("POISON")
    assert train(tmp_path, *settings, world_size=1, start=start_warm).returncode == 0
    assert {step: record["skipped_steps"] for step, record in figures(tmp_path).items() if step > 4} == {5: 1, 6: 1}
