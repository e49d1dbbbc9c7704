"""A DCP checkpoint without a marker gets one.

In: a folder step-N that another program saved, or whose marker was lost. Out: its marker, with sizes and checksums of
the files as they are now, after a look whether all the index names is there; what lies beside it is named too.
"""

from __future__ import annotations

import time
from pathlib import Path

from titan_speech.checkpoint.beside import records_beside
from titan_speech.checkpoint.commit import MARKER, STEP_NAME, Commit, Role, file_record
from titan_speech.checkpoint.dcp_index import read_index
from titan_speech.checkpoint.folder import partial_path, publish
from titan_speech.checkpoint.names import INDEX, role_of_name
from titan_speech.errors import CheckpointError


def adopt(checkpoint: Path) -> Commit:
    """Write the marker of a DCP checkpoint from elsewhere, from the files as they are.

    Raises:
        CheckpointError: it is no DCP checkpoint, or has a marker; its index is refused; a file that it names is missing
            or too short; or a record beside it is damaged.
    """
    match = STEP_NAME.fullmatch(checkpoint.name)
    if match is None or not (checkpoint / INDEX).is_file():
        raise CheckpointError(f"{checkpoint} is no DCP checkpoint: expected a folder step-N with {INDEX} in it")
    if (checkpoint / MARKER).exists():
        raise CheckpointError(
            f"{checkpoint} has a marker already, which knows the bytes that were written: see titan-speech checkpoint "
            f"verify. If you know the files to be whole all the same, remove {MARKER} first"
        )
    metadata = read_index(checkpoint / INDEX)
    roles: dict[str, Role] = {}
    for index, at in metadata.storage_data.items():
        path = checkpoint / at.relative_path
        if not path.is_file() or path.stat().st_size < at.offset + at.length:
            raise CheckpointError(f"{path} is missing or was cut short: {INDEX} places {index.fqn} in it")
        roles[at.relative_path] = (
            "model" if "model" in (role_of_name(index.fqn), roles.get(at.relative_path)) else "state"
        )
    is_full = any(role_of_name(name) == "state" for name in metadata.state_dict_metadata)
    files = [file_record(checkpoint / name, name, role) for name, role in sorted(roles.items())]
    files += [file_record(checkpoint / INDEX, INDEX, "index"), *records_beside(checkpoint)]
    commit = Commit(int(match[1]), "full" if is_full else "model", "adopted", time.time(), 0, tuple(files))
    checkpoint.replace(partial_path(checkpoint))
    publish(checkpoint, commit)
    return commit
