"""One decision a step, taken on the device before the optimizer runs: is this update sound?

In: the losses of a step's microbatches and the gradients, before they are clipped. Out: a flag that lets the optimizer
leave weights, moments and step counters as they are, equal on all ranks, and figures of the step for the host. One
all-reduce of 2 + W numbers (W ranks) carries the size of the gradient, the loss and which ranks saw a loss that is not
finite; a norm reads the gradients once more. No host sync on CUDA: the figures are copied beside the stream and read
one step later. On a CPU they are read at once.

The fused optimizers take the flag themselves (torch's `found_inf`); foreach and for-loop cost one host sync a step.

AdamW with a rate of their own for new vocabulary rows, and a backbone that may be frozen for the first steps.

In: TorchTitan's parameter groups, the number of rows the backbone came with, a factor, and for how many steps the
backbone is frozen. Out: TorchTitan's container, whose step does three things more:

- New rows move by `new_rows_lr_factor` times what AdamW would move them, decay included, which is AdamW with that rate.
  They are part of one matrix, so what is scaled is the step and not the gradient, which AdamW divides by its size.
- While the backbone is frozen only new rows learn: its gradients are dropped before they are clipped, its weights stay
  the same bits, and its AdamW has not begun when it is thawed.
- Loaded states bring moments only. Rates, betas and decay are those of this run's file, so a stage that takes over an
  optimizer does not take its first step at the rate of the stage before.

Costs a copy of this rank's new rows during a step (538 MB for 65,664 rows of 2,048 unsharded, 17 MB over 32 ranks), and
of its old rows while they are frozen; nothing where the factor is 1 and nothing is frozen. Gradients of a frozen
backbone are still computed: what learns is decided at each step, and the graph stays the same.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.components.optimizer.utils import init_optim_state

from titan_speech.model.new_rows import VocabularyMatrix, local_part, vocabulary_matrices
from titan_speech.training.loss import GroupSums

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


class SpeechOptimizers(GuardedOptimizers):
    """TorchTitan's optimizers; `begin_step` says which step is next."""

    @dataclass(kw_only=True, slots=True)
    class Config(GuardedOptimizers.Config):
        num_old_rows: int
        """Vocabulary rows the backbone came with; those above are new."""

        new_rows_lr_factor: float = 1.0
        frozen_steps: int = 0
        """Steps at the beginning in which only new rows learn."""

    def __init__(self, config: Config, *, model_parts: list[torch.nn.Module]) -> None:
        super().__init__(config, model_parts=model_parts)
        self.matrices = vocabulary_matrices(model_parts, config.num_old_rows)
        self.factor, self.frozen_steps = config.new_rows_lr_factor, config.frozen_steps
        self.is_frozen = False
        if self.frozen_steps:
            self._begin_states()

    def begin_step(self, step: int) -> None:
        """`step` counts from 0."""
        self.is_frozen = step < self.frozen_steps

    def drop_frozen_gradients(self) -> None:
        """After a backward pass and before gradients are clipped, so that their norm is that of what learns."""
        if not self.is_frozen:
            return
        for parameter in self._frozen():
            if parameter.grad is not None:
                local_part(parameter.grad).zero_()
        for matrix in self.matrices:
            if matrix.parameter.grad is not None:
                matrix.old(matrix.parameter.grad).zero_()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        held = [hold for matrix in self.matrices for hold in self._holds(matrix)]
        with self._without_frozen():
            super().step(closure)
        for rows, before, factor in held:
            rows.copy_(torch.lerp(before, rows, factor))

    def _holds(self, matrix: VocabularyMatrix) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        """Rows that must not move by the whole step: where they lie, what they were, and which part of it they move."""
        parts = [(matrix.new, self.factor), (matrix.old, 0.0 if self.is_frozen else 1.0)]
        for rows_of, factor in parts:
            rows = rows_of(matrix.parameter)
            if factor != 1 and rows.numel():
                yield rows, rows.clone(), factor

    @contextmanager
    def _without_frozen(self) -> Iterator[None]:
        """A parameter without a gradient is passed over by AdamW; its gradient is kept for graphs that write to it."""
        hidden = [(parameter, parameter.grad) for parameter in self._frozen()] if self.is_frozen else []
        for parameter, _ in hidden:
            parameter.grad = None
        yield
        for parameter, gradient in hidden:
            parameter.grad = gradient

    def _frozen(self) -> Iterator[torch.nn.Parameter]:
        """Parameters that a frozen backbone has as a whole."""
        learning = {id(matrix.parameter) for matrix in self.matrices}
        for part in self.model_parts:
            yield from (parameter for parameter in part.parameters() if id(parameter) not in learning)

    def _begin_states(self) -> None:
        """States of zeros for all parameters, so that a checkpoint of a frozen backbone has them."""
        for optimizer in self.optimizers:
            init_optim_state(optimizer)
            for state in optimizer.state.values():
                state["step"].zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        ours = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        super().load_state_dict(state_dict)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, settings in zip(groups, ours, strict=True):
            group.update(settings)
