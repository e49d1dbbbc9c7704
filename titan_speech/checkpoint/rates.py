"""Whether learning rates only drop: from the stage before to this one, and where a run goes on under another schedule.

In: this run's budget and the one kept in the provenance of the checkpoint it starts from. Out: a sentence for the user,
or none. Nothing is changed here: the schedule of a run is that of its file.
"""

from __future__ import annotations

from pathlib import Path

from titan_speech.config.budget import Budget

TOLERANCE = 1e-6
"""Relative: rates are written by people."""


def rise(budget: Budget, before: Budget | None, checkpoint: Path) -> str:
    """What to say if this stage's peak is above the rate that `checkpoint` (.../step-N) was last trained with."""
    step = int(checkpoint.name.removeprefix("step-"))
    if before is None:
        return f"{checkpoint} does not say its learning rate, so optimizer.lr = {budget.lr:g} was not compared with it."
    last = before.learning_rate(max(step, 1) - 1)
    if budget.lr <= last * (1 + TOLERANCE):
        return ""
    unfinished = f" (at step {step:,} of {before.num_steps:,})" if step < before.num_steps else ""
    return (
        f"The learning rate rises from stage to stage: optimizer.lr = {budget.lr:g} is above {last:g}, with which the "
        f"stage before ended{unfinished} ({checkpoint}). Set optimizer.lr to {last:g} or less."
    )


def cut_short(before: Budget | None, checkpoint: Path) -> str:
    """What to say if `checkpoint` (.../step-N) lies before the end of its stage."""
    step = int(checkpoint.name.removeprefix("step-"))
    if before is None or step >= before.num_steps:
        return ""
    return (
        f"The stage before is not finished: {checkpoint} is step {step:,} of {before.num_steps:,}, where its rate was "
        f"{before.learning_rate(max(step, 1) - 1):.3g} and not yet {before.final_lr:.3g}. Its own command goes on with "
        "it; if this checkpoint is meant, nothing has to be done."
    )


def schedule_change(budget: Budget, before: Budget | None, step: int) -> str:
    """What to say if a run goes on after `step` steps with another schedule than it had."""
    if before is None or _curve(budget) == _curve(before):
        return ""
    length = f"{before.num_steps:,} steps" + (
        f" -> {budget.num_steps:,}" if budget.num_steps != before.num_steps else ""
    )
    return (
        f"The schedule is not the one this run had ({length}). Warmup and decay are computed over the new total: step "
        f"{step + 1:,} has the rate {budget.learning_rate(step):.3g}, under the old schedule it had "
        f"{before.learning_rate(step):.3g}; the last step has {budget.final_lr:.3g}. To go on without a rise, start a "
        f"stage of its own from this run, with optimizer.lr = {before.learning_rate(step):.3g}."
    )


def _curve(budget: Budget) -> tuple[float | str, ...]:
    """What decides the rate of a step."""
    return budget.num_steps, budget.warmup_steps, budget.lr, budget.end_lr, budget.decay
