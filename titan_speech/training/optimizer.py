"""AdamW that skips a bad step, trains new vocabulary rows at a rate of their own, and can freeze the backbone at first.

In: gradients, the guard's flag, and the number of rows the backbone came with. Out: an optimizer step, or none.

Skipping. A step that the guard (step_guard.py) rejects leaves weights, moments and step counters as they are. Fused
optimizers take its flag themselves (torch's `found_inf`), without a host sync; foreach and for-loop implementations
cost one host sync per step.

New rows and freezing.
- New rows move by `new_rows_lr_factor` times what AdamW would move them, weight decay included, which equals AdamW with
  that rate. They are part of one matrix, so the step is scaled and not the gradient, which AdamW divides by its size.
- While the backbone is frozen only new rows learn: gradients of the backbone are zeroed before clipping, its weights
  stay the same bits, and its AdamW state, zeros until then, begins when it is unfrozen.
- Loading an optimizer loads its moments only. Rates, betas and decay are those of this run's file, so a stage that
  loads the optimizer state of the previous stage does not take its first step at that stage's rate.

This costs a copy of this rank's new rows during a step (538 MB for 65,664 rows of 2,048 unsharded, 17 MB over 32
ranks), and of its old rows while they are frozen; nothing where the factor is 1 and nothing is frozen. Gradients of a
frozen backbone are still computed: what learns is decided at each step, and the graph stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.components.optimizer.utils import init_optim_state

from titan_speech.model.new_rows import VocabularyMatrix, local_part, vocabulary_matrices
from titan_speech.training.step_guard import StepGuard


class GuardedOptimizers(OptimizersContainer):
    """Skips the optimizer step when the guard rejects it."""

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


class SpeechOptimizers(GuardedOptimizers):
    """AdamW with a rate of its own for new rows, and a backbone that is frozen in the first steps."""

    @dataclass(kw_only=True, slots=True)
    class Config(GuardedOptimizers.Config):
        num_old_rows: int
        """Vocabulary rows the backbone came with; rows after them are new."""

        new_rows_lr_factor: float = 1.0
        frozen_steps: int = 0
        """Number of first steps in which only new rows learn."""
        keeps_old_rows: bool = False
        """The backbone's rows of the vocabulary matrices stay as they are in every step (LoRA with new rows)."""

    def __init__(self, config: Config, *, model_parts: list[torch.nn.Module]) -> None:
        super().__init__(config, model_parts=model_parts)
        self.matrices = vocabulary_matrices(model_parts, config.num_old_rows)
        self.factor, self.frozen_steps = config.new_rows_lr_factor, config.frozen_steps
        self.is_frozen, self.keeps_old_rows = False, config.keeps_old_rows
        if self.frozen_steps:
            self._begin_states()

    def begin_step(self, step: int) -> None:
        """Announce the next step, counted from 0."""
        self.is_frozen = step < self.frozen_steps

    def drop_frozen_gradients(self) -> None:
        """Zero the gradients of frozen parameters: after a backward pass, before the norm for clipping is taken."""
        if self.is_frozen:
            for parameter in self._frozen():
                if parameter.grad is not None:
                    local_part(parameter.grad).zero_()
        if not (self.is_frozen or self.keeps_old_rows):
            return
        for matrix in self.matrices:
            if matrix.parameter.grad is not None:
                matrix.old(matrix.parameter.grad).zero_()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        scaled = [rows for matrix in self.matrices for rows in self._scaled_rows(matrix)]
        with self._without_frozen():
            super().step(closure)
        for rows, before, factor in scaled:
            rows.copy_(torch.lerp(before, rows, factor))

    def _scaled_rows(self, matrix: VocabularyMatrix) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        """Rows with a scaled update: the rows, their values before the step, and the scale."""
        parts = [(matrix.new, self.factor), (matrix.old, 0.0 if self.is_frozen or self.keeps_old_rows else 1.0)]
        for rows_of, factor in parts:
            rows = rows_of(matrix.parameter)
            if factor != 1 and rows.numel():
                yield rows, rows.clone(), factor

    @contextmanager
    def _without_frozen(self) -> Iterator[None]:
        """Hide gradients of frozen parameters, so that AdamW skips them; CUDA graphs write to the same memory later."""
        hidden = [(parameter, parameter.grad) for parameter in self._frozen()] if self.is_frozen else []
        for parameter, _ in hidden:
            parameter.grad = None
        yield
        for parameter, gradient in hidden:
            parameter.grad = gradient

    def _frozen(self) -> Iterator[torch.nn.Parameter]:
        """Parameters without any new row."""
        learning = {id(matrix.parameter) for matrix in self.matrices}
        for part in self.model_parts:
            yield from (parameter for parameter in part.parameters() if id(parameter) not in learning)

    def _begin_states(self) -> None:
        """Create states of zeros for all parameters, so that a checkpoint of a frozen backbone contains them."""
        for optimizer in self.optimizers:
            init_optim_state(optimizer)
            for state in optimizer.state.values():
                state["step"].zero_()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments and step counters; learning rates, betas and weight decay stay those of this run."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        ours = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        super().load_state_dict(state_dict)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, settings in zip(groups, ours, strict=True):
            group.update(settings)
