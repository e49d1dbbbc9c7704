"""The records beside a checkpoint: what made it, and how far each data stream was read.

In: a step, its provenance and the phases of its data. Out: small files in the folder above the checkpoint, with their
sizes and checksums for the marker, which names them, so that whoever copies the checkpoint knows what belongs to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from titan_speech.checkpoint.commit import FileRecord, file_record
from titan_speech.checkpoint.provenance import Provenance, provenance_path, read_provenance
from titan_speech.data.phases.carry import Phase
from titan_speech.data.phases.files import FOLDER as PHASES_FOLDER
from titan_speech.data.phases.files import phase_end, write_step


def write_beside(
    checkpoint: Path, step: int, provenance: Provenance, phases: Sequence[Phase]
) -> tuple[FileRecord, ...]:
    """Write them; records of what was written."""
    provenance.at(step, phases).write(checkpoint)
    write_step(checkpoint, step, phases)
    return _records(checkpoint, phases)


def records_beside(checkpoint: Path) -> tuple[FileRecord, ...]:
    """Records of what lies beside a checkpoint already, all of it or a part.

    Raises:
        CheckpointError: the record of its data is damaged, or a file that it names is missing.
    """
    read_provenance(checkpoint)  # a damaged one is refused
    end = phase_end(checkpoint)
    return _records(checkpoint, end.phases if end else ())


def _records(checkpoint: Path, phases: Sequence[Phase]) -> tuple[FileRecord, ...]:
    """Of the files that are there."""
    folder = checkpoint.parent
    names = [str(provenance_path(checkpoint).relative_to(folder)), f"{PHASES_FOLDER}/{checkpoint.name}.json"]
    names += [f"{PHASES_FOLDER}/{phase.fingerprint}.json" for phase in phases]
    return tuple(file_record(folder / name, name, "beside") for name in names if (folder / name).is_file())
