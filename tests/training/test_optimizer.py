"""New vocabulary rows at their own rate, a frozen backbone, loaded states: against AdamW written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torchtitan.components.optimizer import ParamGroupConfig

from tests.config.test_budget import budget
from tests.support.spawn import spawn
from titan_speech.training.lr_schedule import TokenBudgetSchedule
from titan_speech.training.optimizer import SpeechOptimizers

ROWS, OLD_ROWS, WIDTH = 11, 6, 3
LR, BETAS, EPS, DECAY = 0.1, (0.9, 0.95), 1e-8, 0.2


class Toy(nn.Module):
    """The names that matter, and one layer."""

    def __init__(self, is_tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tok_embeddings = nn.Embedding(ROWS, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)
        self.lm_head = nn.Linear(WIDTH, ROWS, bias=False)
        if is_tied:
            self.lm_head.weight = self.tok_embeddings.weight


def optimizers(model: nn.Module, factor: float = 1.0, frozen_steps: int = 0, **changed: Any) -> SpeechOptimizers:
    settings = {"lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": DECAY, **changed}
    groups = [ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs=settings)]
    config = SpeechOptimizers.Config(
        param_groups=groups,
        implementation="for-loop",
        num_old_rows=OLD_ROWS,
        new_rows_lr_factor=factor,
        frozen_steps=frozen_steps,
    )
    return SpeechOptimizers(config, model_parts=[model])


def gradients(model: nn.Module, step: int) -> None:
    """The same whole gradients whatever a parameter is sharded over."""
    for number, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(1000 * step + number)
        whole = torch.randn(parameter.shape, generator=generator)
        if isinstance(parameter, DTensor):
            parameter.grad = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
        else:
            parameter.grad = whole


def take_steps(model: nn.Module, container: SpeechOptimizers, steps: range) -> None:
    for step in steps:
        container.begin_step(step)
        gradients(model, step)
        container.drop_frozen_gradients()
        container.step()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Whole, by name, detached from the model."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }


def adamw(start: torch.Tensor, number: int, steps: range, lr_rows: torch.Tensor, first_step: int = 0) -> torch.Tensor:
    """AdamW written out, in float64, with a rate for each row; gradients as above, from `first_step` on."""
    x, m, v = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
    for count, step in enumerate((step for step in steps if step >= first_step), start=1):
        generator = torch.Generator().manual_seed(1000 * step + number)
        gradient = torch.randn(start.shape, generator=generator).double()
        m = BETAS[0] * m + (1 - BETAS[0]) * gradient
        v = BETAS[1] * v + (1 - BETAS[1]) * gradient**2
        update = (m / (1 - BETAS[0] ** count)) / (v.sqrt() / math.sqrt(1 - BETAS[1] ** count) + EPS)
        x = x - lr_rows[:, None] * (DECAY * x + update)
    return x


def row_rates(factor: float) -> torch.Tensor:
    return torch.tensor([LR] * OLD_ROWS + [LR * factor] * (ROWS - OLD_ROWS), dtype=torch.float64)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("factor", [0.1, 1.0, 5.0])
def test_new_rows_move_as_adamw_with_their_own_rate_would_move_them(is_tied: bool, factor: float) -> None:
    model = Toy(is_tied)
    before = weights(model)
    take_steps(model, optimizers(model, factor), range(8))
    after = weights(model)
    assert len(after) == (2 if is_tied else 3)
    for number, (name, start) in enumerate(before.items()):
        rates = torch.full((WIDTH,), LR, dtype=torch.float64) if name == "layer.weight" else row_rates(factor)
        expected = adamw(start, number, range(8), rates)
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_frozen_backbone_stays_the_same_bits_while_new_rows_learn_and_begins_afresh_when_thawed(
    is_tied: bool,
) -> None:
    model = Toy(is_tied)
    before = weights(model)
    container = optimizers(model, factor=0.5, frozen_steps=5)
    take_steps(model, container, range(5))
    frozen = weights(model)
    assert torch.equal(frozen["layer.weight"], before["layer.weight"])
    for name in set(frozen) - {"layer.weight"}:
        assert torch.equal(frozen[name][:OLD_ROWS], before[name][:OLD_ROWS])
        assert not torch.isclose(frozen[name][OLD_ROWS:], before[name][OLD_ROWS:]).any()
    take_steps(model, container, range(5, 9))
    after = weights(model)
    for number, (name, start) in enumerate(before.items()):
        if name == "layer.weight":
            rates = torch.full((WIDTH,), LR, dtype=torch.float64)
            expected = adamw(start, number, range(9), rates, first_step=5)
            torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=1e-6)
        else:
            new = adamw(start, number, range(9), row_rates(0.5))[OLD_ROWS:]
            torch.testing.assert_close(after[name][OLD_ROWS:].double(), new, rtol=1e-5, atol=1e-6)
            assert not torch.isclose(after[name][:OLD_ROWS], before[name][:OLD_ROWS]).any()


def test_gradients_of_a_frozen_backbone_do_not_count_when_they_are_clipped() -> None:
    model = Toy(is_tied=False)
    container = optimizers(model, frozen_steps=1)
    container.begin_step(0)
    gradients(model, 0)
    expected = torch.stack([model.tok_embeddings.weight.grad[OLD_ROWS:], model.lm_head.weight.grad[OLD_ROWS:]]).norm()  # type: ignore[index]
    container.drop_frozen_gradients()
    torch.testing.assert_close(nn.utils.clip_grad_norm_(model.parameters(), 1.0), expected)
    container.begin_step(1)
    gradients(model, 1)
    container.drop_frozen_gradients()
    assert all(parameter.grad.all() for parameter in model.parameters())  # type: ignore[union-attr]


def resumed_midway(num_steps: int, cut: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of a run that was cut and of one that was not."""
    whole, first = Toy(is_tied=True), Toy(is_tied=True)
    take_steps(whole, optimizers(whole, 0.3, frozen_steps=4), range(num_steps))
    container = optimizers(first, 0.3, frozen_steps=4)
    take_steps(first, container, range(cut))
    second = Toy(is_tied=True)
    second.load_state_dict(first.state_dict())
    again = optimizers(second, 0.3, frozen_steps=4)
    again.load_state_dict(container.state_dict())
    take_steps(second, again, range(cut, num_steps))
    return weights(second), weights(whole)


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_resumed_before_at_and_after_the_thaw_gives_the_same_bits(cut: int) -> None:
    resumed, whole = resumed_midway(8, cut)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_loaded_optimizer_brings_moments_and_takes_its_first_step_at_the_rate_of_this_run() -> None:
    before = Toy(is_tied=True)
    earlier = optimizers(before, lr=0.5, weight_decay=0.0, betas=(0.8, 0.9))
    schedule = TokenBudgetSchedule(earlier, budget(num_steps=10, warmup_ratio=0.0, lr=0.5))
    for step in range(4):
        take_steps(before, earlier, range(step, step + 1))
        schedule.step()
    model = Toy(is_tied=True)
    container = optimizers(model)
    plan = budget(num_steps=10, warmup_ratio=0.5, lr=LR)
    TokenBudgetSchedule(container, plan)
    container.load_state_dict(earlier.state_dict())
    [group] = container.optimizers[0].param_groups
    assert (group["lr"], group["initial_lr"]) == (plan.learning_rate(0), LR)
    assert (group["betas"], group["weight_decay"]) == (BETAS, DECAY)
    state, theirs = (c.optimizers[0].state for c in (container, earlier))
    for ours, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(state[ours]["exp_avg"], theirs[old]["exp_avg"])
        assert state[ours]["step"] == 4


def test_a_schedule_that_changed_gives_the_next_step_its_new_rate() -> None:
    model = Toy(is_tied=True)
    container = optimizers(model)
    plan = budget(num_steps=10, warmup_ratio=0.2, lr=LR)
    schedule = TokenBudgetSchedule(container, plan)
    take_steps(model, container, range(1))
    for _ in range(10):
        schedule.step()
    longer = replace(plan, num_steps=20)
    again = optimizers(model)
    extended = TokenBudgetSchedule(again, longer)
    again.load_state_dict(container.state_dict())
    extended.load_state_dict(schedule.state_dict())
    [group] = again.optimizers[0].param_groups
    assert group["lr"] == pytest.approx(longer.learning_rate(10), rel=1e-12)
    assert group["lr"] > plan.end_lr


def shards_agree_with_one_process(layout: str, expected: dict[str, torch.Tensor]) -> None:
    """In each process: the same steps on shards."""
    model = Toy(is_tied=layout == "fsdp-tied")
    if layout.startswith("fsdp"):
        fully_shard(model)
    else:
        shape, names = ((2,), ("tp",)) if layout == "tp" else ((2, 2), ("dp", "tp"))
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for module in (model.tok_embeddings, model.lm_head):
            whole = module.weight.detach()
            module.weight = nn.Parameter(distribute_tensor(whole, mesh["tp"], [Shard(0)]))
        model.layer.weight = nn.Parameter(distribute_tensor(model.layer.weight.detach(), mesh["tp"], [Replicate()]))
        if layout == "fsdp+tp":
            fully_shard(model, mesh=mesh["dp"])
    container = optimizers(model, 0.3, frozen_steps=2)
    take_steps(model, container, range(5))
    found = weights(model)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def one_process(is_tied: bool) -> dict[str, torch.Tensor]:
    model = Toy(is_tied)
    take_steps(model, optimizers(model, 0.3, frozen_steps=2), range(5))
    return weights(model)


def shards_of_two_agree(tied: dict[str, torch.Tensor], untied: dict[str, torch.Tensor]) -> None:
    shards_agree_with_one_process("fsdp-tied", tied)
    shards_agree_with_one_process("tp", untied)


def test_shards_of_two_processes_give_the_weights_of_one_to_the_last_bit() -> None:
    spawn(2, shards_of_two_agree, one_process(is_tied=True), one_process(is_tied=False))


@pytest.mark.slow
def test_rows_cut_by_tensor_parallel_and_again_by_fsdp_give_the_weights_of_one_process() -> None:
    spawn(4, shards_agree_with_one_process, "fsdp+tp", one_process(is_tied=False))
