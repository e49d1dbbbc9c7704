"""Whether a step may change the weights: its loss and its gradients are finite.

In: the loss of each microbatch, and the gradients before they are clipped. Out: a flag on the device, equal on all
ranks, which the optimizer obeys (optimizer.py); and a reading of each step for the host, which health/monitor.py acts
on.

One all-reduce of 2 + W numbers (W ranks) carries the squared gradient norm, the loss, and which ranks saw a loss that
is not finite; the norm reads the gradients once more. On CUDA there is no host sync: the numbers are copied
asynchronously and read one step later. On a CPU they are read at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from titan_speech.model.new_rows import local_part
from titan_speech.training.loss import GroupSums

# The vector that is summed over ranks: [squared norm, loss, W flags: the loss of the rank is not finite].
SQUARE, LOSS, FIRST_RANK = 0, 1, 2


@dataclass(frozen=True)
class StepReading:
    """The result of one step, equal on all ranks."""

    step: int
    loss: float
    """Mean over the trained tokens of the step."""
    gradient_is_finite: bool
    bad_ranks: tuple[int, ...]
    """Ranks whose part of the loss is not finite."""

    @property
    def is_skipped(self) -> bool:
        return not (self.gradient_is_finite and math.isfinite(self.loss))


@dataclass(frozen=True)
class _Pending:
    """Numbers of a step on their way to the host."""

    step: int
    numbers: torch.Tensor
    ready: torch.cuda.Event | None


class StepGuard:
    """Judges each step; `found_inf` is a flag on the device, 1 if the update must be skipped."""

    def __init__(self, device: torch.device, loss_copies: int, groups: GroupSums) -> None:
        """Args:
        device: where losses and gradients are.
        loss_copies: number of ranks that hold the same part of the loss (tensor-parallel ranks).
        groups: sums per group, committed or discarded with the step.
        """
        self.device, self.loss_copies, self.groups = device, loss_copies, groups
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.found_inf = torch.zeros((), device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._pending: deque[_Pending] = deque()
        self._lag_steps = 1 if device.type == "cuda" else 0

    def add_loss(self, loss: torch.Tensor) -> None:
        """Add the part of the step's mean loss that one microbatch on this rank has."""
        self._loss += local_part(loss)

    @torch.no_grad()
    def judge(self, step: int, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Decide whether the step is skipped; called when its gradients are complete, before they are clipped."""
        numbers = torch.zeros(FIRST_RANK + self.world_size, dtype=torch.float64, device=self.device)
        numbers[SQUARE] = _squared_norm(parameters, self.device)
        numbers[LOSS] = self._loss / self.loss_copies
        numbers[FIRST_RANK + self.rank] = ~torch.isfinite(self._loss)
        torch.distributed.all_reduce(numbers)
        is_sound = torch.isfinite(numbers[: LOSS + 1]).all()
        self.found_inf = (~is_sound).float()
        self.groups.commit(is_sound)
        self._loss.zero_()
        self._pending.append(self._start_copy(step, numbers))

    def readings(self, settle: bool = False) -> list[StepReading]:
        """Readings that have arrived since the last call; `settle` waits for those of all steps."""
        keep = 0 if settle else self._lag_steps
        return [_reading(self._pending.popleft()) for _ in range(len(self._pending) - keep)]

    def _start_copy(self, step: int, numbers: torch.Tensor) -> _Pending:
        if numbers.device.type != "cuda":
            return _Pending(step, numbers, None)
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return _Pending(step, host, ready)


def _squared_norm(parameters: Iterable[torch.nn.Parameter], device: torch.device) -> torch.Tensor:
    """Squared norm of this rank's gradients, in fp32 as TorchTitan clips: it overflows for a norm above 1.8e19."""
    shards = [local_part(p.grad) for p in parameters if p.grad is not None]
    norms = torch._foreach_norm([shard for shard in shards if shard.numel()])
    return torch.stack(norms).float().square().sum() if norms else torch.zeros((), device=device)


def _reading(pending: _Pending) -> StepReading:
    if pending.ready is not None:
        pending.ready.synchronize()
    square, loss, *is_bad = pending.numbers.tolist()
    bad_ranks = tuple(rank for rank, bad in enumerate(is_bad) if bad)
    return StepReading(pending.step, loss, math.isfinite(square), bad_ranks)
