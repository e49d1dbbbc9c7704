"""AdamW with a rate of their own for new vocabulary rows, and a backbone that may be frozen for the first steps.

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

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torchtitan.components.optimizer.utils import init_optim_state

from titan_speech.health.guard import GuardedOptimizers
from titan_speech.new_rows import VocabularyMatrix, local_part, vocabulary_matrices


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
