"""`[stage] from`: the initial load of a stage from the previous one, and what its learning rates do.

In: the [stage], [checkpoint] and [data] config, this run's provenance and budget.
Out: an `InitialLoad`: the checkpoint whose weights (and, if asked for, optimizer state) the stage starts from, and what
the user should know. Decided from files alone, before a process group exists, and only for a run without checkpoints of
its own: a crash inside the stage resumes the stage.

Loaded are weights, optimizer state and the read position of each data stream. Never loaded are step, schedule and
learning rates: the schedule of a run is that of its file, and a rate that would rise is a warning, or with
stage.strict an error.

A branch (`stage.branch`) is no new stage: it is the run of the checkpoint, continued in another folder, and loads all
that a resume loads. Any number of branches decay from one stable run, each on its own data. A branch and a run that was
never branched but has the same schedule and the same data end with the same bits, so its rate must be the same where it
branches: anything else is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from titan_speech.checkpoint.choose_start import FRESH, Start, newest_complete
from titan_speech.checkpoint.commit import Checkpoint, committed_at, step_from_name
from titan_speech.checkpoint.lora_base import Base, find_base
from titan_speech.checkpoint.open_run import local_copy
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.verify import verify
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig, StageConfig
from titan_speech.data.phase_files import phase_end
from titan_speech.data.phases import PhaseEnd
from titan_speech.distributed.environment import dist_env
from titan_speech.errors import CheckpointError
from titan_speech.storage.s3_url import is_s3
from titan_speech.utils.text_table import counted

TOLERANCE = 1e-6
"""Relative: learning rates are written by people."""


@dataclass(frozen=True)
class InitialLoad:
    """The start of a stage, and what its user should know."""

    start: Start
    notes: tuple[str, ...] = ()


def choose_initial_load(config: SpeechConfig, provenance: Provenance, budget: Budget) -> InitialLoad:
    """Choose the checkpoint that `[stage] from` means.

    Raises:
        CheckpointError: it is missing, damaged, of another model, lacks what is asked for, or, with stage.strict, the
            learning rate would rise.
    """
    stage = config.stage
    start = _newest_sound(config)
    assert start.checkpoint is not None, "an initial load has a checkpoint"
    found = read_provenance(start.checkpoint)
    if found is not None:
        provenance.check_fits(found, start.checkpoint, weights_only=not start.is_branch)
    if _continues_data(config) and phase_end(start.checkpoint) is None:
        raise CheckpointError(
            f"{_key(stage)}: {start.checkpoint} has no record next to it of how far each data stream was read; copy "
            "data_phases along with it, or set stage.continue_data = false to read every stream from its beginning"
        )
    checkpoint = Checkpoint.at(start.checkpoint)
    if start.is_branch:  # it restores the breaches of that run, and with them what they left of the rate
        _check_rate_at_branch(budget, found.budget if found else None, checkpoint)
        return InitialLoad(start)
    before = found.trained_budget if found else None
    # An adapter begins at zero: the rate that the base ended with says nothing about it.
    note = "" if config.lora.is_on else learning_rate_rise(budget, before, checkpoint)
    if note and stage.strict:
        raise CheckpointError(f"{note} With stage.strict = false this is a warning.")
    notes = (note, unfinished_stage(before, checkpoint))
    return InitialLoad(start, tuple(one for one in notes if one))


def _newest_sound(config: SpeechConfig) -> Start:
    stage, passed_over = config.stage, []
    path = local_copy(stage.from_, config.storage) if is_s3(stage.from_) else Path(stage.from_).absolute()
    is_one = step_from_name(path.name) is not None
    for checkpoint in [Checkpoint.at(path)] if is_one else committed_at(path):
        found = verify(checkpoint.path, checksums=config.checkpoint.verify_checksums)
        if found.problems:
            passed_over.append(f"{checkpoint.path.name}: damaged: {', '.join(found.problems)}")
        elif (stage.optimizer or stage.branch) and found.commit is not None and found.commit.kind != "full":
            key = "stage.branch" if stage.branch else "stage.optimizer"
            passed_over.append(f"{checkpoint.path.name}: has weights only, {key} asks for more")
        elif found.commit is not None and found.commit.suspect and not is_one:
            passed_over.append(f"{checkpoint.path.name}: suspect: {found.commit.suspect}; name it to start from it")
        else:
            return Start(
                step=checkpoint.step if stage.branch else FRESH,
                checkpoint=checkpoint.path,
                passed_over=tuple(passed_over),
                is_from_previous_stage=True,
                with_optimizer=stage.optimizer or stage.branch,
                is_branch=stage.branch,
                suspect=found.commit.suspect if found.commit is not None else "",
            )
    unusable = f"; unusable: {'; '.join(passed_over)}" if passed_over else ""
    raise CheckpointError(
        f"{_key(stage)}: no complete checkpoint there{unusable}. Give the run folder of the previous stage, or one of "
        "its checkpoints (.../checkpoint/step-N); to start without one, leave stage.from out"
    )


def on_this_machine(config: SpeechConfig, start: Start) -> Start:
    """The start that rank 0 chose, on the node of this rank: each node fetches what is at s3://."""
    if start.checkpoint is None or not is_s3(config.stage.from_) or dist_env().is_first:
        return start
    run = str(config.stage.from_).rstrip("/").removesuffix(f"/{start.checkpoint.name}")
    return replace(start, checkpoint=local_copy(f"{run}/{start.checkpoint.name}", config.storage))


def base_to_resume_with(config: SpeechConfig, checkpoint: Path, extended: Path) -> Base:
    """The frozen weights that the adapter in a checkpoint of this run was trained on.

    They are looked for where they were, then where the configuration says that the run starts.

    Args:
        config: of the run.
        checkpoint: .../step-N.
        extended: where the run keeps a backbone whose vocabulary it has extended.

    Raises:
        CheckpointError: they are in none of these places, or the checkpoint does not record them.
    """
    found = read_provenance(checkpoint)
    if found is None or not found.base_fingerprint:
        raise CheckpointError(f"{checkpoint} does not record the base of its adapter; restore its provenance/")
    places = [found.base, config.stage.from_, config.model.initial, config.checkpoint.initial_load_path]
    local = (local_copy(place, config.storage) if is_s3(place) else Path(place) for place in places if place)
    known = (place.absolute() for place in (*local, extended))
    return find_base(found.base_fingerprint, known, f"the adapter in {checkpoint}")


def with_continued_data(config: SpeechConfig, start: Start) -> SpeechConfig:
    """The configuration to plan data with: `data.continue_from` is a complete checkpoint, unless the run resumes.

    Raises:
        CheckpointError: data.continue_from has no complete checkpoint.
    """
    if start.is_resume:  # its own checkpoint has the read positions, and continue_from is not read
        return config
    if start.is_from_previous_stage and _continues_data(config):
        return replace(config, data=replace(config.data, continue_from=str(start.checkpoint)))
    if config.data.continue_from:
        newest = newest_complete(Path(config.data.continue_from), "data.continue_from")
        return replace(config, data=replace(config.data, continue_from=str(newest.path.absolute())))
    return config


def preview_data(config: SpeechConfig) -> tuple[SpeechConfig, str]:
    """As `with_continued_data`, to look at the data of a run before it starts.

    Returns:
        The configuration, and a remark if the previous stage has no checkpoint yet.

    Raises:
        CheckpointError: data.continue_from has no complete checkpoint.
    """
    start = Start()
    if config.stage.branch:
        remark = "stage.branch: slots are shown as if the run had read this data from its first step"
        return config, f"{remark}; titan-speech data show has those of the branch"
    if config.stage.from_ and _continues_data(config):
        try:
            start = _newest_sound(replace(config, checkpoint=replace(config.checkpoint, verify_checksums=False)))
        except CheckpointError:
            return config, f"{_key(config.stage)} has no checkpoint: streams are shown from their beginning"
    return with_continued_data(config, start), ""


def later_phase(config: SpeechConfig) -> PhaseEnd | None:
    """Where the run of this configuration is, if it has left its first phase: slots count over all phases."""
    newest = committed_at(Path(config.job.dump_folder).absolute())
    end = phase_end(newest[0].path) if newest else None
    if end is None and config.stage.branch and not is_s3(config.stage.from_):
        start = _newest_sound(replace(config, checkpoint=replace(config.checkpoint, verify_checksums=False)))
        return start.phase_end()
    return end if end is not None and end.last.first_slot and end.last.label == config.data.phase else None


def _continues_data(config: SpeechConfig) -> bool:
    return config.stage.continue_data and not config.data.continue_from


def _key(stage: StageConfig) -> str:
    return f"stage.from = {stage.from_!r}"


def learning_rate_rise(budget: Budget, before: Budget | None, checkpoint: Checkpoint) -> str:
    """A warning if this stage's peak learning rate is above the one `checkpoint` was last trained with, else empty."""
    if before is None:
        return (
            f"{checkpoint.path} does not record its learning rate, so optimizer.lr = {budget.lr:g} was not compared "
            "with it."
        )
    step = checkpoint.step
    last = before.learning_rate(max(step, 1) - 1)
    if budget.lr <= last * (1 + TOLERANCE):
        return ""
    unfinished = f" (at step {step:,} of {before.num_steps:,})" if step < before.num_steps else ""
    return (
        f"The learning rate rises from stage to stage: optimizer.lr = {budget.lr:g} is above {last:g}, with which the "
        f"previous stage ended{unfinished} ({checkpoint.path}). Set optimizer.lr to {last:g} or less."
    )


def _check_rate_at_branch(budget: Budget, before: Budget | None, checkpoint: Checkpoint) -> None:
    """Refuse a branch whose schedule is not the one that the checkpoint was trained with up to its step."""
    step, num_steps = checkpoint.step, budget.num_steps
    if before is None or step == 0:
        raise CheckpointError(f"stage.branch: {checkpoint.path} does not record the learning rate it was trained with")
    if step >= num_steps:
        raise CheckpointError(
            f"stage.branch: {checkpoint.path} has done {counted(step, 'step')}, and training.target_tokens is that of "
            f"{num_steps:,}, counted from the first step of that run. Add the tokens of the branch to the "
            f"{step * budget.tokens_per_step:,} that are trained"
        )
    ours, theirs = budget.learning_rate(step - 1), before.learning_rate(step - 1)
    if abs(ours - theirs) <= theirs * TOLERANCE and ours == budget.lr:
        return
    raise CheckpointError(
        f"stage.branch: {checkpoint.path} was trained with the learning rate {theirs:g} in its last step, where this "
        f"schedule has {ours:g}; a branch starts where both are stable. That run is stable at {before.lr:g} from step "
        f"{before.peak_step + 1:,} to {before.last_stable_step + 1:,}; set optimizer.lr to it, and "
        f"lr_scheduler.decay_ratio to at most {(num_steps - step) / num_steps:.4g}, so that the decay begins after "
        f"step {step:,} of {num_steps:,}"
    )


def unfinished_stage(before: Budget | None, checkpoint: Checkpoint) -> str:
    """A warning if `checkpoint` is not the last of its stage, else empty."""
    step = checkpoint.step
    if before is None or step >= before.num_steps:
        return ""
    return (
        f"The previous stage is not finished: {checkpoint.path} is step {step:,} of {before.num_steps:,}, where its "
        f"learning rate was {before.learning_rate(max(step, 1) - 1):.3g} and not yet {before.final_lr:.3g}. Its own "
        "command continues it; if this checkpoint is meant, nothing has to be done."
    )


def schedule_change(budget: Budget, before: Budget | None, step: int) -> str:
    """A warning if a run resumes after `step` steps with another schedule than it had, else empty."""
    if before is None or _schedule(budget) == _schedule(before) or _both_stable(budget, before, step):
        return ""
    length = f"{counted(before.num_steps, 'step')}" + (
        f" -> {budget.num_steps:,}" if budget.num_steps != before.num_steps else ""
    )
    return (
        f"The schedule is not the one this run had ({length}). Warmup and decay are computed over the new total: step "
        f"{step + 1:,} has the rate {budget.learning_rate(step):.3g}, under the old schedule it had "
        f"{before.learning_rate(step):.3g}; the last step has {budget.final_lr:.3g}. To continue without a rise, start "
        f"a stage of its own from this run, with optimizer.lr = {before.learning_rate(step):.3g}."
    )


def _both_stable(budget: Budget, before: Budget, step: int) -> bool:
    """Whether a run that has done that many steps was stable, and is in both schedules: nothing jumps."""
    is_stable = (one.peak_step < step <= one.last_stable_step + 1 for one in (budget, before))
    return all(is_stable) and abs(budget.lr - before.lr) <= before.lr * TOLERANCE


def _schedule(budget: Budget) -> tuple[float | str, ...]:
    """What decides the learning rate of a step."""
    return budget.num_steps, budget.warmup_steps, budget.lr, budget.end_lr, budget.decay, budget.decay_ratio
