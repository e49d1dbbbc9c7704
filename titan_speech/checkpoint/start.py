"""What a run starts from, decided from the files alone.

In: the [checkpoint] table, the run's checkpoint folder and this run's provenance. Out: the checkpoint to load and
whether only its weights are taken, or an error, before a process group exists and before anything is written. A run
resumes from its newest full checkpoint that is what its marker says; newer ones that are not are named with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import INDEX, checkpoint_path, committed_steps
from titan_speech.checkpoint.index import indexed_files
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.verify import Verification, verify
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.data.phase_files import PHASES_DIR as PHASES_FOLDER
from titan_speech.data.phase_files import phase_end
from titan_speech.data.phases import PhaseEnd
from titan_speech.errors import CheckpointError

FRESH = -1


@dataclass(frozen=True)
class Start:
    """Where the weights come from; `step` is -1 unless the run's own folder has them."""

    step: int = FRESH
    checkpoint: Path | None = None
    passed_over: tuple[str, ...] = ()
    """Newer checkpoints that were not taken, each with the reason."""
    is_hand_over: bool = False
    """The checkpoint is that of the stage before."""
    with_optimizer: bool = False
    """A hand-over that brings moments of the optimizer too."""

    @property
    def is_resume(self) -> bool:
        return self.step > 0

    def phase_end(self) -> PhaseEnd | None:
        """Where the data of a run that is gone on with stands.

        Raises:
            CheckpointError: nothing says it.
        """
        if not self.is_resume or self.checkpoint is None:
            return None
        end = phase_end(self.checkpoint)
        if end is None:
            raise CheckpointError(
                f"{self.checkpoint} has no {PHASES_FOLDER}/{self.checkpoint.name}.json beside it, which says how far "
                "each data stream was read; copy the folder along, or start another run from the checkpoint's weights "
                "(checkpoint.initial_load_path)"
            )
        return end

    def __str__(self) -> str:
        if self.checkpoint is None:
            return "fresh weights"
        if self.is_resume:
            return f"step {self.step} of {self.checkpoint.parent}"
        taken = "the weights and the optimizer" if self.with_optimizer else "the weights"
        return f"{taken} of {'the stage before, ' if self.is_hand_over else ''}{self.checkpoint}"


def complete_steps(folder: Path) -> list[int]:
    """Steps with a complete checkpoint, in rising order."""
    return committed_steps(folder)


def choose_start(table: CheckpointConfig, folder: Path, provenance: Provenance) -> Start:
    """The start of a run whose checkpoints lie in `folder`.

    Raises:
        CheckpointError: what was asked for is absent or damaged, belongs to another run, or nothing there is sound.
    """
    if not table.enable or table.create_seed_checkpoint:
        return Start()
    start = _own(table, folder) or _initial(table)
    if start.checkpoint is not None:
        found = read_provenance(start.checkpoint)
        if found is not None:
            provenance.check_fits(found, start.checkpoint, weights_only=not start.is_resume)
    return start


def _own(table: CheckpointConfig, folder: Path) -> Start | None:
    """The newest sound checkpoint of the run itself, or the step asked for; None if it has none."""
    passed_over = []
    for step in _candidates(table, folder):
        found = verify(checkpoint_path(folder, step), checksums=table.verify_checksums)
        reason = _unfit(found)
        if not reason:
            return Start(step, found.checkpoint, tuple(passed_over))
        passed_over.append(f"step {step}: {reason}")
    if passed_over:
        raise CheckpointError(
            f"nothing in {folder} can be resumed from: {'; '.join(passed_over)}. Restore one of them, take weights "
            "with checkpoint.initial_load_path in another job.dump_folder, or remove the folder to start anew."
        )
    _refuse_unmarked(folder)
    return None


def _candidates(table: CheckpointConfig, folder: Path) -> list[int]:
    """Steps to try, newest first."""
    steps = committed_steps(folder)
    if table.load_step == FRESH:
        return steps[::-1]
    if table.load_step not in steps:
        raise CheckpointError(
            f"checkpoint.load_step = {table.load_step}: no complete checkpoint at "
            f"{checkpoint_path(folder, table.load_step)}; {_known(steps)}. Leave load_step out to resume from the "
            "newest."
        )
    return [table.load_step]


def _unfit(found: Verification) -> str:
    """Why a run cannot go on from a checkpoint; empty if it can. Step 0 is a seed: weights are all it has to have."""
    if found.problems:
        return f"damaged: {', '.join(found.problems)}"
    assert found.commit is not None, "a checkpoint without problems has a marker"
    is_resumable = found.commit.kind == "full" or found.commit.step == 0
    return "" if is_resumable else "has weights only, no optimizer to go on with"


def _refuse_unmarked(folder: Path) -> None:
    """A run whose only checkpoints have no marker must not silently begin anew beside them."""
    unmarked = sorted(path.parent.name for path in folder.glob(f"step-*/{INDEX}") if ".partial" not in path.parent.name)
    if unmarked:
        raise CheckpointError(
            f"{folder} has checkpoints without a commit marker ({', '.join(unmarked)}): another program saved them, or "
            "the markers were removed. If one is whole, `titan-speech checkpoint mark` writes its marker; otherwise "
            "move them away."
        )


def _initial(table: CheckpointConfig) -> Start:
    if not table.initial_load_path:
        return Start()
    checkpoint = Path(table.initial_load_path).absolute()
    if not (checkpoint / INDEX).is_file():
        steps = committed_steps(checkpoint)
        raise CheckpointError(
            f"checkpoint.initial_load_path = {table.initial_load_path!r}: no complete checkpoint there; "
            f"{_known(steps, checkpoint)}. Give a folder .../step-N that has {INDEX}."
        )
    found = verify(checkpoint, checksums=table.verify_checksums)
    if found.commit is not None and not found.is_sound:
        raise CheckpointError(
            f"checkpoint.initial_load_path = {table.initial_load_path!r} is damaged: {', '.join(found.problems)}"
        )
    if found.commit is None:  # of another program: nothing was looked at
        try:
            indexed_files(checkpoint / INDEX)
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint.initial_load_path = {table.initial_load_path!r}: {error}") from error
    return Start(checkpoint=checkpoint)


def _known(steps: list[int], folder: Path | None = None) -> str:
    where = f" in {folder}" if folder else ""
    return f"there are the steps {', '.join(map(str, steps))}{where}" if steps else f"there is none{where}"
