"""The learning rate of each step, in closed form from the token budget.

The formula itself is `Budget.learning_rate` in config/budget.py. In: `Budget.lr_factor`, and by how much breaches have
lowered the rate (health/rollback.py). Out: TorchTitan's scheduler container that uses them. TorchTitan's own schedule
has one virtual extra step, so it approaches the final rate without reaching it; this one reaches it exactly at the last
step. The final rate and the end of warmup are the same at any world size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer

from titan_speech.config.budget import Budget


class TokenBudgetSchedule(LRSchedulersContainer):
    """Learning rates from `Budget.lr_factor`; the state is TorchTitan's step counter."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        budget: Budget

        def build(self, *, optimizers: OptimizersContainer, training_steps: int) -> TokenBudgetSchedule:
            assert training_steps == self.budget.num_steps, f"{training_steps} != {self.budget.num_steps}"
            self.warmup_steps = self.budget.warmup_steps
            return TokenBudgetSchedule(optimizers, self.budget)

    def __init__(self, optimizers: OptimizersContainer, budget: Budget) -> None:
        self._scale = 1.0
        # called with the number of finished steps
        super().__init__(optimizers, lambda step: self._scale * budget.lr_factor(step))

    def scale(self, factor: float) -> None:
        """Multiply the rates of the next step and of all that follow.

        Args:
            factor: of the schedule's rates; it replaces the factor before it.
        """
        if factor != self._scale:
            self._scale = factor
            self.load_state_dict(self.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the step counter; the next step has the rate of this schedule, also if it changed since the save."""
        super().load_state_dict(state_dict)
        for scheduler in self.schedulers:
            for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = lr
