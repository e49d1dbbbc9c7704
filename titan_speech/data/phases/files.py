"""Phases on disk: beside checkpoints, so that one can be resumed alone, and in the run folder, to be looked at.

In: the phases of a run. Out: one JSON file for each phase, called by its fingerprint, and beside checkpoints one that
names the phase of each step. Files are written whole or not at all, and never changed.

    RUN/data_phases/3f...json                         every phase the run began
    RUN/checkpoint/data_phases/3f...json, step-40.json   those of its checkpoints
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from titan_speech.data.phases.carry import Phase, PhaseEnd, phase_from_json
from titan_speech.errors import CheckpointError

FOLDER = "data_phases"
_FINGERPRINT = re.compile("[0-9a-f]{8,64}")


def write_phases(folder: Path, phases: Sequence[Phase]) -> None:
    """Into `folder`/data_phases, those that are not there yet."""
    for phase in phases:
        path = folder / FOLDER / f"{phase.fingerprint}.json"
        if not path.exists():
            _write(path, phase.to_json())


def write_step(checkpoint: Path, step: int, phases: Sequence[Phase]) -> None:
    """The record of a checkpoint (.../step-N), before the checkpoint itself."""
    write_phases(checkpoint.parent, phases)
    record = {"step": step, "phase": phases[-1].fingerprint, "label": phases[-1].label}
    _write(checkpoint.parent / FOLDER / f"{checkpoint.name}.json", json.dumps(record) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def phase_end(checkpoint: Path) -> PhaseEnd | None:
    """The phases up to a checkpoint (.../step-N); None where no record lies beside it.

    Raises:
        CheckpointError: a record is damaged or a phase's file is absent.
    """
    path = checkpoint.parent / FOLDER / f"{checkpoint.name}.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        step, fingerprint = int(record["step"]), str(record["phase"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); restore it, or load another checkpoint") from error
    return PhaseEnd(str(checkpoint), step, read_chain(path.parent, fingerprint))


def read_chain(folder: Path, fingerprint: str) -> tuple[Phase, ...]:
    """A phase of `folder` and those of its run before it, in their order."""
    chain = [read_phase(_phase_path(folder, fingerprint))]
    while chain[0].parent and not chain[0].continues:
        chain.insert(0, read_phase(_phase_path(folder, chain[0].parent)))
    return tuple(chain)


def _phase_path(folder: Path, fingerprint: str) -> Path:
    """A fingerprint read from a record becomes a file name here."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise CheckpointError(f"a record in {folder} names the phase {fingerprint!r}, expected a fingerprint (0-9a-f)")
    return folder / f"{fingerprint}.json"


def read_phase(path: Path) -> Phase:
    try:
        return phase_from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: it says where each data stream stood; copy {path.parent.name} along with checkpoints"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it from where the run came from") from error


def continued_from(folder: Path) -> PhaseEnd:
    """Where the run in `folder` stands: its newest complete checkpoint, or `folder` itself if that is one (.../step-N).

    Raises:
        CheckpointError: there is none, or none with a record of its data.
    """
    where = f"data.continue_from = {str(folder)!r}"
    checkpoint = folder if (folder / ".metadata").is_file() else newest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(
            f"{where}: no complete checkpoint there; give a run folder or a checkpoint (.../checkpoint/step-N)"
        )
    end = phase_end(checkpoint.absolute())
    if end is None:
        raise CheckpointError(
            f"{where}: {checkpoint} has no {FOLDER}/{checkpoint.name}.json beside it, which says how far each stream "
            "was read; copy it along, or leave data.continue_from out to read every stream from its beginning"
        )
    return end


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run folder or a folder of checkpoints."""
    found = [path.parent for pattern in ("step-*", "*/step-*") for path in folder.glob(f"{pattern}/.metadata")]
    numbered = [path for path in found if path.name.removeprefix("step-").isdecimal()]
    return max(numbered, key=lambda path: int(path.name.removeprefix("step-")), default=None)
