"""Phases on disk: next to checkpoints, so that one can be resumed on its own, and in the run folder, for reports.

In: the phases of a run. Out: one JSON file per phase, named by its fingerprint, and next to checkpoints one per step
that names the step's phase. Files are written atomically and never changed.

    RUN/data_phases/3f...json                            every phase the run began
    RUN/checkpoint/data_phases/3f...json, step-40.json   the phases of its checkpoints
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from titan_speech.data.phases import Phase, PhaseEnd, phase_from_json
from titan_speech.errors import CheckpointError
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file, read_small_file

PHASES_DIR = "data_phases"
_FINGERPRINT = re.compile("[0-9a-f]{8,64}")


def write_phases(folder: Path, phases: Sequence[Phase]) -> None:
    """Write the phases that are missing in `folder`/data_phases."""
    for phase in phases:
        path = folder / PHASES_DIR / f"{phase.fingerprint}.json"
        if not path.exists():
            write_atomically(path, phase.to_json())


def write_step(checkpoint: Path, step: int, phases: Sequence[Phase]) -> None:
    """Write the data record of a checkpoint (.../step-N); called before the checkpoint itself is written."""
    write_phases(checkpoint.parent, phases)
    record = {"step": step, "phase": phases[-1].fingerprint, "label": phases[-1].label}
    write_atomically(checkpoint.parent / PHASES_DIR / f"{checkpoint.name}.json", json.dumps(record) + "\n")


def phase_end(checkpoint: Path) -> PhaseEnd | None:
    """The phases up to a checkpoint (.../step-N); None if there is no record next to it.

    Raises:
        CheckpointError: a record is damaged or the file of a phase is missing.
    """
    path = checkpoint.parent / PHASES_DIR / f"{checkpoint.name}.json"
    if not path.is_file():
        return None
    try:
        record = read_json_file(path)
        step, fingerprint = int(record["step"]), str(record["phase"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); restore it, or load another checkpoint") from error
    return PhaseEnd(str(checkpoint), step, read_phases(path.parent, fingerprint))


def read_phases(folder: Path, fingerprint: str) -> tuple[Phase, ...]:
    """A phase of `folder` and the earlier phases of its run, oldest first.

    Raises:
        CheckpointError: one of them is missing or damaged, or they follow each other in a circle.
    """
    chain = [read_phase(_phase_path(folder, fingerprint))]
    while chain[0].parent and not chain[0].continues:
        parent = read_phase(_phase_path(folder, chain[0].parent))
        if parent in chain:
            raise CheckpointError(
                f"{folder}: phase {chain[0].parent} is its own predecessor; restore it from where the run came from"
            )
        chain.insert(0, parent)
    return tuple(chain)


def _phase_path(folder: Path, fingerprint: str) -> Path:
    """Checked, because a fingerprint read from a record becomes a file name."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise CheckpointError(f"a record in {folder} names the phase {fingerprint!r}, expected a fingerprint (0-9a-f)")
    return folder / f"{fingerprint}.json"


def read_phase(path: Path) -> Phase:
    try:
        return phase_from_json(read_small_file(path).decode())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: it holds the read position of each data stream; copy {path.parent.name} together with "
            "the checkpoints"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it from where the run came from") from error


def continued_from(checkpoint: Path) -> PhaseEnd:
    """The data position of a checkpoint (.../step-N) of another run, which checkpoint/ found to be complete.

    Raises:
        CheckpointError: there is no data record next to it.
    """
    end = phase_end(checkpoint)
    if end is None:
        raise CheckpointError(
            f"data.continue_from = {str(checkpoint)!r} has no {PHASES_DIR}/{checkpoint.name}.json next to it, which "
            "holds the read position of each stream; copy it too, or leave data.continue_from out to read every stream "
            "from its beginning"
        )
    return end
