"""One decision a step, taken on the device before the optimizer runs: is this update sound?

In: the losses of a step's microbatches and the gradients, before they are clipped. Out: a flag that lets the optimizer
leave weights, moments and step counters as they are, equal on all ranks, and figures of the step for the host. One
all-reduce of 2 + W numbers (W ranks) carries the size of the gradient, the loss and which ranks saw a loss that is not
finite; a norm reads the gradients once more. No host sync on CUDA: the figures are copied beside the stream and read
one step later. On a CPU they are read at once.

The fused optimizers take the flag themselves (torch's `found_inf`); foreach and for-loop cost one host sync a step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torchtitan.components.optimizer import OptimizersContainer

from titan_speech.objective import GroupSums

# The vector that is added up over ranks: [squared norm, loss, W flags: the rank's loss is not finite].
SQUARE, LOSS, FIRST_RANK = 0, 1, 2


@dataclass(frozen=True)
class StepReading:
    """What all ranks know alike of one step."""

    step: int
    loss: float
    """Mean over the step's trained tokens."""
    gradient_is_finite: bool
    bad_ranks: tuple[int, ...]
    """Ranks whose own part of the loss is not finite."""

    @property
    def is_skipped(self) -> bool:
        return not (self.gradient_is_finite and math.isfinite(self.loss))


@dataclass(frozen=True)
class _Pending:
    step: int
    figures: torch.Tensor
    ready: torch.cuda.Event | None


class StepGuard:
    """Judges each step; `found_inf` is 1 on the device where the update must not happen."""

    def __init__(self, device: torch.device, loss_copies: int, groups: GroupSums) -> None:
        """`loss_copies` ranks hold each part of the loss (tensor parallel ranks)."""
        self.device, self.loss_copies, self.groups = device, loss_copies, groups
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.found_inf = torch.zeros((), device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._pending: deque[_Pending] = deque()
        self._lag_steps = 1 if device.type == "cuda" else 0

    def add_loss(self, loss: torch.Tensor) -> None:
        """A microbatch's part of the step's mean loss on this rank."""
        self._loss += loss.to_local() if isinstance(loss, DTensor) else loss

    @torch.no_grad()
    def judge(self, step: int, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Decide on the step whose gradients are complete."""
        figures = torch.zeros(FIRST_RANK + self.world_size, dtype=torch.float64, device=self.device)
        figures[SQUARE] = _squared_norm(parameters, self.device)
        figures[LOSS] = self._loss / self.loss_copies
        figures[FIRST_RANK + self.rank] = ~torch.isfinite(self._loss)
        torch.distributed.all_reduce(figures)
        is_sound = torch.isfinite(figures[: LOSS + 1]).all()
        self.found_inf = (~is_sound).float()
        self.groups.commit(is_sound)
        self._loss.zero_()
        self._pending.append(self._copied(step, figures))

    def readings(self, settle: bool = False) -> list[StepReading]:
        """Steps whose figures are here by now, each once; `settle` waits for all of them."""
        keep = 0 if settle else self._lag_steps
        return [_reading(self._pending.popleft()) for _ in range(len(self._pending) - keep)]

    def _copied(self, step: int, figures: torch.Tensor) -> _Pending:
        if figures.device.type != "cuda":
            return _Pending(step, figures, None)
        host = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
        host.copy_(figures, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return _Pending(step, host, ready)


class GuardedOptimizers(OptimizersContainer):
    """TorchTitan's container, whose step is none where the guard says so."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        pass

    guard: StepGuard | None = None

    def step(self, closure: Any = None) -> Any:
        if self.guard is None:
            return super().step(closure)
        flag = self.guard.found_inf
        if not all(group.get("fused") for optimizer in self.optimizers for group in optimizer.param_groups):
            return None if flag.item() else super().step(closure)
        for optimizer in self.optimizers:
            optimizer.found_inf = flag  # pyright: ignore[reportAttributeAccessIssue]  (read by torch's fused Adam)
        return super().step(closure)


def _squared_norm(parameters: Iterable[torch.nn.Parameter], device: torch.device) -> torch.Tensor:
    """Of this rank's gradients, in fp32 as TorchTitan clips: beyond 1.8e19 the norm is no number to clip by."""
    grads = [p.grad for p in parameters if p.grad is not None]
    shards = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads]
    norms = torch._foreach_norm([shard for shard in shards if shard.numel()])
    return torch.stack(norms).float().square().sum() if norms else torch.zeros((), device=device)


def _reading(pending: _Pending) -> StepReading:
    if pending.ready is not None:
        pending.ready.synchronize()
    square, loss, *is_bad = pending.figures.tolist()
    bad_ranks = tuple(rank for rank, bad in enumerate(is_bad) if bad)
    return StepReading(pending.step, loss, math.isfinite(square), bad_ranks)
