"""Whether learning rates only drop: from the stage before to this one, and where a run goes on under another schedule.

In: this run's budget and the one kept in the provenance of the checkpoint it starts from. Out: a sentence for the user,
or none. Nothing is changed here: the schedule of a run is that of its file.

`[stage] from`: what a stage takes over from the one before.

In: the [stage] and [checkpoint] tables, this run's provenance and budget. Out: a `HandOver`: the checkpoint whose
weights (and, if asked for, moments of AdamW) the stage starts from, and what to tell. Decided from files alone, before
a process group exists, and only for a run without checkpoints of its own: a crash inside the stage resumes the stage.

Taken over are weights, moments and the place of each data stream. Never taken over are step, schedule and rates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, STEP_NAME
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.resume import local_copy
from titan_speech.checkpoint.start import Start
from titan_speech.checkpoint.verify import verify
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig, StageConfig
from titan_speech.data.phase_files import phase_end
from titan_speech.errors import CheckpointError
from titan_speech.storage.s3_url import is_s3

TOLERANCE = 1e-6
"""Relative: rates are written by people."""


def learning_rate_rise(budget: Budget, before: Budget | None, checkpoint: Path) -> str:
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


@dataclass(frozen=True)
class InitialLoad:
    """The start of a stage, and what its user should know."""

    start: Start
    notes: tuple[str, ...] = ()


def choose_initial_load(config: SpeechConfig, provenance: Provenance, budget: Budget) -> InitialLoad:
    """The checkpoint that `[stage] from` stands for.

    Raises:
        CheckpointError: it is absent, damaged, of another model, lacks what is asked for, or, with `strict`, the
            learning rate would rise.
    """
    stage = config.stage
    start = _newest_sound(config)
    assert start.checkpoint is not None, "a hand-over has a checkpoint"
    found = read_provenance(start.checkpoint)
    if found is not None:
        provenance.check_fits(found, start.checkpoint, weights_only=True)
    if _continues_data(config) and phase_end(start.checkpoint) is None:
        raise CheckpointError(
            f"{_where(stage)}: {start.checkpoint} has no record beside it of how far each data stream was read; copy "
            "data_phases along with it, or set stage.continue_data = false to read every stream from its beginning"
        )
    before = found.budget if found else None
    note = learning_rate_rise(budget, before, start.checkpoint)
    if note and stage.strict:
        raise CheckpointError(f"{note} With stage.strict = false this is a warning.")
    notes = (note, cut_short(before, start.checkpoint))
    return InitialLoad(start, tuple(one for one in notes if one))


def on_this_machine(config: SpeechConfig, start: Start) -> Start:
    """The start that rank 0 chose, on this rank's node: what lies at s3:// is fetched by each node."""
    if start.checkpoint is None or not is_s3(config.stage.from_) or os.environ["RANK"] == "0":
        return start
    run = str(config.stage.from_).rstrip("/").removesuffix(f"/{start.checkpoint.name}")
    return replace(start, checkpoint=local_copy(f"{run}/{start.checkpoint.name}", config.storage))


def with_continued_data(config: SpeechConfig, start: Start) -> SpeechConfig:
    """The configuration to plan data with: a stage reads its streams on from the checkpoint it takes over."""
    if not start.is_hand_over or not _continues_data(config):
        return config
    return replace(config, data=replace(config.data, continue_from=str(start.checkpoint)))


def previewed(config: SpeechConfig) -> tuple[SpeechConfig, str]:
    """To look at data before the run: as `with_continued_data`, or a remark where the stage before is not there yet."""
    if not config.stage.from_ or not _continues_data(config):
        return config, ""
    try:
        start = _newest_sound(replace(config, checkpoint=replace(config.checkpoint, verify_checksums=False)))
    except CheckpointError:
        return config, f"{_where(config.stage)} has no checkpoint: streams are shown from their beginning"
    return with_continued_data(config, start), ""


def _continues_data(config: SpeechConfig) -> bool:
    return config.stage.continue_data and not config.data.continue_from


def _where(stage: StageConfig) -> str:
    return f"stage.from = {stage.from_!r}"


def _newest_sound(config: SpeechConfig) -> Start:
    stage, passed_over = config.stage, []
    place = local_copy(stage.from_, config.storage) if is_s3(stage.from_) else Path(stage.from_).absolute()
    for checkpoint in _candidates(place):
        found = verify(checkpoint, checksums=config.checkpoint.verify_checksums)
        if found.problems:
            passed_over.append(f"{checkpoint.name}: damaged: {', '.join(found.problems)}")
        elif stage.optimizer and found.commit is not None and found.commit.kind != "full":
            passed_over.append(f"{checkpoint.name}: has weights only, stage.optimizer asks for more")
        else:
            return Start(
                checkpoint=checkpoint,
                passed_over=tuple(passed_over),
                is_hand_over=True,
                with_optimizer=stage.optimizer,
            )
    seen = f"; passed over: {'; '.join(passed_over)}" if passed_over else ""
    raise CheckpointError(
        f"{_where(stage)}: no complete checkpoint there{seen}. Give the run folder of the stage before, or one of its "
        "checkpoints (.../checkpoint/step-N); to start without one, leave stage.from out"
    )


def _candidates(folder: Path) -> Iterator[Path]:
    """`folder` itself if it is a checkpoint, else those of a run folder or of a folder of checkpoints, newest first."""
    if STEP_NAME.fullmatch(folder.name):
        yield folder
        return
    found = [path.parent for pattern in ("step-*", "*/step-*") for path in folder.glob(f"{pattern}/{MARKER}")]
    numbered = [path for path in found if STEP_NAME.fullmatch(path.name)]
    yield from sorted(numbered, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)
