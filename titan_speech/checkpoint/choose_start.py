"""Which checkpoint a run starts from, decided from the files alone.

In: the [checkpoint] config, the run's checkpoint folder and the provenance of this run.
Out: a `Start`: the checkpoint to load and whether only its weights are loaded; or an error, before a process group
exists and before anything is written. A run resumes from its newest full checkpoint that is what its marker says and
is not suspect; newer ones that are not are reported with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import (
    INDEX,
    Checkpoint,
    checkpoint_path,
    committed_at,
    committed_steps,
    existing_text,
    suspicion,
    unmarked_checkpoints,
    unsuspected_steps,
)
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.verify import CheckpointVerification, verify
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.data.phase_files import PHASES_DIR, phase_end
from titan_speech.data.phases import PhaseEnd
from titan_speech.errors import CheckpointError

FRESH = -1


@dataclass(frozen=True)
class Start:
    """What a run starts from."""

    step: int = FRESH
    """Step to resume from; -1 unless the checkpoint is one of the run's own folder, or the run branches from it."""
    checkpoint: Path | None = None
    """Where the weights are loaded from; None: random initialization."""
    passed_over: tuple[str, ...] = ()
    """Newer checkpoints that cannot be used, each with the reason."""
    is_from_previous_stage: bool = False
    """The checkpoint is one of the previous stage ([stage] from)."""
    with_optimizer: bool = False
    """The optimizer state of the previous stage is loaded too."""
    is_branch: bool = False
    """The run continues that of the previous stage from its checkpoint, in a folder of its own."""
    suspect: str = ""
    """Why the checkpoint, which was named by the user, is suspect; empty if it is not."""

    @property
    def is_resume(self) -> bool:
        return self.step > 0

    def phase_end(self) -> PhaseEnd | None:
        """The read positions of the data streams of a run that resumes; None for one that does not.

        Raises:
            CheckpointError: the checkpoint has no record of them.
        """
        if not self.is_resume or self.checkpoint is None:
            return None
        end = phase_end(self.checkpoint)
        if end is None:
            raise CheckpointError(
                f"{self.checkpoint} has no {PHASES_DIR}/{self.checkpoint.name}.json next to it, which records how far "
                "each data stream was read; copy the folder along, or start another run from the checkpoint's weights "
                "(checkpoint.initial_load_path)"
            )
        return end

    def __str__(self) -> str:
        if self.checkpoint is None:
            return "random initialization"
        if self.is_resume:
            return f"step {self.step} of {self.checkpoint.parent}{', as a branch' if self.is_branch else ''}"
        loaded = "the weights and the optimizer" if self.with_optimizer else "the weights"
        return f"{loaded} of {'the previous stage, ' if self.is_from_previous_stage else ''}{self.checkpoint}"


def choose_start(config: CheckpointConfig, folder: Path, provenance: Provenance) -> Start:
    """Choose the start of a run whose checkpoints are in `folder`.

    Raises:
        CheckpointError: the checkpoint that was asked for is missing or damaged or belongs to another run; or the
            folder has checkpoints and none of them is sound.
    """
    if not config.enable or config.create_seed_checkpoint:
        return Start()
    start = _own_checkpoint(config, folder) or _initial_weights(config)
    if start.checkpoint is not None:
        found = read_provenance(start.checkpoint)
        if found is not None:
            provenance.check_fits(found, start.checkpoint, weights_only=not start.is_resume)
    return start


def newest_complete(path: Path, key: str) -> Checkpoint:
    """The newest complete checkpoint at a path given by a user: a checkpoint, a folder of them, or a run folder.

    Args:
        key: the setting that names the path, for the message.

    Raises:
        CheckpointError: no checkpoint there has a marker.
    """
    found = committed_at(path)
    if found:
        return found[0]
    raise CheckpointError(
        f"{key} = {str(path)!r}: no complete checkpoint there{_unmarked(path)}; give a run folder or a checkpoint "
        "(.../checkpoint/step-N)"
    )


def _unmarked(path: Path) -> str:
    """What else is there, with the remedy; empty if nothing is."""
    unmarked = unmarked_checkpoints(path)
    if not unmarked:
        return ""
    return (
        f" ({unmarked[-1].path} has no commit marker, so it is not complete; if you know it to be whole, `titan-speech "
        f"checkpoint mark {unmarked[-1].path}` writes the marker)"
    )


def _own_checkpoint(config: CheckpointConfig, folder: Path) -> Start | None:
    """The newest sound checkpoint of the run itself, or the step asked for; None if the run has no checkpoint."""
    passed_over = []
    for step in _steps_to_try(config, folder):
        suspect = suspicion(checkpoint_path(folder, step))
        if suspect and config.load_step == FRESH:
            passed_over.append(f"step {step}: suspect: {suspect} (checkpoint.load_step = {step} resumes from it)")
            continue
        found = verify(checkpoint_path(folder, step), checksums=config.verify_checksums)
        reason = _reason_against_resume(found)
        if not reason:
            return Start(step, found.checkpoint, tuple(passed_over), suspect=suspect)
        passed_over.append(f"step {step}: {reason}")
    if passed_over:
        raise CheckpointError(
            f"nothing in {folder} can be resumed from: {'; '.join(passed_over)}. Restore one of them, load its weights "
            "with checkpoint.initial_load_path in another job.dump_folder, or remove the folder to start from scratch."
        )
    unmarked = unmarked_checkpoints(folder)
    if unmarked:  # a run whose only checkpoints have no marker must not silently start from scratch next to them
        raise CheckpointError(
            f"{folder} has checkpoints without a commit marker ({', '.join(one.path.name for one in unmarked)}): "
            "another program saved them, or the markers were removed. If one is whole, `titan-speech checkpoint mark` "
            "writes its marker; otherwise move them away."
        )
    return None


def _steps_to_try(config: CheckpointConfig, folder: Path) -> list[int]:
    """Newest first."""
    steps = committed_steps(folder)
    if config.load_step == FRESH:
        return steps[::-1]
    if config.load_step not in steps:
        raise CheckpointError(
            f"checkpoint.load_step = {config.load_step}: no complete checkpoint at "
            f"{checkpoint_path(folder, config.load_step)}; {existing_text(steps)}. Leave load_step out to resume from "
            "the newest."
        )
    return [config.load_step]


def _reason_against_resume(found: CheckpointVerification) -> str:
    """Why a run cannot resume from a checkpoint; empty if it can. A seed (step 0) needs weights only."""
    if found.problems:
        return f"damaged: {', '.join(found.problems)}"
    assert found.commit is not None, "a checkpoint without problems has a marker"
    is_resumable = found.commit.kind == "full" or found.commit.step == 0
    return "" if is_resumable else "has weights only, no optimizer state to resume with"


def _initial_weights(config: CheckpointConfig) -> Start:
    """checkpoint.initial_load_path: weights of another run, or of another program, whose checkpoints have no marker."""
    if not config.initial_load_path:
        return Start()
    checkpoint = Path(config.initial_load_path).absolute()
    key = f"checkpoint.initial_load_path = {config.initial_load_path!r}"
    if not (checkpoint / INDEX).is_file():
        raise CheckpointError(
            f"{key}: no complete checkpoint there; {existing_text(committed_steps(checkpoint))} in {checkpoint}. Give "
            f"a folder .../step-N that has {INDEX}."
        )
    found = verify(checkpoint, checksums=config.verify_checksums)
    if found.commit is not None and not found.is_sound:
        raise CheckpointError(f"{key} is damaged: {', '.join(found.problems)}")
    if found.commit is None:  # of another program: nothing was verified
        from titan_speech.checkpoint.index_reader import read_index

        try:
            read_index(checkpoint / INDEX)
        except CheckpointError as error:
            raise CheckpointError(f"{key}: {error}") from error
    return Start(checkpoint=checkpoint, suspect=found.commit.suspect if found.commit else "")


def describe_last_good(folder: Path) -> str:
    """The last checkpoint in `folder` that is not suspect, and what a restart does."""
    good, steps = unsuspected_steps(folder), committed_steps(folder)
    if good:
        suspect = [step for step in steps if step > good[-1]]
        newer = f", not from the suspect step {', '.join(map(str, suspect))}" if suspect else ""
        return f"The last good checkpoint is step {good[-1]}: a restart resumes from there{newer}."
    if not steps:
        return "There is no checkpoint yet: a restart begins at step 0."
    return (
        f"All checkpoints ({', '.join(map(str, steps))}) are suspect: start again in another job.dump_folder, or "
        f"remove {folder} to begin at step 0."
    )


def describe_last_good_until(folder: Path, step: int) -> str:
    """The last checkpoint in `folder` up to a step that is not suspect, and how to continue from it."""
    good = [one for one in unsuspected_steps(folder) if one <= step]
    if not good:
        return "There is no checkpoint of a step before that: start again, with other settings."
    place = checkpoint_path(folder, good[-1])
    return f"The last good checkpoint is step {good[-1]}: to continue from it, start a stage with stage.from = {place}."
