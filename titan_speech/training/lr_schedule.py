"""The learning rate of a step, as the budget has it.

In: the budget's closed form. Out: TorchTitan's scheduler container driven by it. TorchTitan's own schedule has a
virtual extra step, so its end rate is approached and not reached; ours is reached exactly at the last step, and both
it and the warmup's end are the same at any world size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchtitan.components.optimizer import LRSchedulersContainer, OptimizersContainer

from titan_speech.config.budget import Budget


class TokenBudgetSchedule(LRSchedulersContainer):
    """Learning rates from `Budget.learning_rate`; state is TorchTitan's step counter."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        budget: Budget

        def build(self, *, optimizers: OptimizersContainer, training_steps: int) -> TokenBudgetSchedule:
            assert training_steps == self.budget.num_steps, f"{training_steps} != {self.budget.num_steps}"
            self.warmup_steps = self.budget.warmup_steps
            return TokenBudgetSchedule(optimizers, self.budget)

    def __init__(self, optimizers: OptimizersContainer, budget: Budget) -> None:
        super().__init__(optimizers, budget.lr_factor)  # called with the number of steps done: the step to come

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next step is taken at its own rate, also where the schedule changed since the state was saved."""
        super().load_state_dict(state_dict)
        for scheduler in self.schedulers:
            for group, lr in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = lr
