"""Whether a checkpoint is what its marker says.

In: a checkpoint folder. Out: every problem, in words, with the file's name. Sizes cost one stat a file. Checksums read
every byte, several files at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from titan_speech.checkpoint.commit import (
    MARKER,
    STEP_NAME,
    Commit,
    FileRecord,
    Role,
    file_record,
    read_commit,
)
from titan_speech.checkpoint.folder import partial_path, publish
from titan_speech.checkpoint.names import INDEX, role_of_name
from titan_speech.errors import CheckpointError

NUM_THREADS = 8


@dataclass(frozen=True)
class Verification:
    """A checkpoint with all that is wrong with it."""

    checkpoint: Path
    commit: Commit | None
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        return not self.problems


def verify(checkpoint: Path, *, checksums: bool) -> Verification:
    """Compare `checkpoint` (.../step-N) with its marker."""
    try:
        commit = read_commit(checkpoint)
    except CheckpointError as error:
        return Verification(checkpoint, None, (str(error),))
    if commit is None:
        return Verification(checkpoint, None, (_without_marker(checkpoint),))
    found = _wrong_step(checkpoint, commit) + _each(commit.files, partial(_wrong_size, checkpoint))
    if checksums and not found:
        found = _each(commit.files, partial(_wrong_content, checkpoint))
    return Verification(checkpoint, commit, tuple(found))


def _each(files: tuple[FileRecord, ...], look: Callable[[FileRecord], str]) -> list[str]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [problem for problem in pool.map(look, files) if problem]


def _wrong_step(checkpoint: Path, commit: Commit) -> list[str]:
    is_same = checkpoint.name == f"step-{commit.step}"
    return [] if is_same else [f"{MARKER} is of step {commit.step}; the folder was renamed or the file copied"]


def _wrong_size(checkpoint: Path, file: FileRecord) -> str:
    try:
        num_bytes = file.path(checkpoint).stat().st_size
    except OSError as error:
        return f"{file.name} is missing" if isinstance(error, FileNotFoundError) else f"{file.name}: {error}"
    return "" if num_bytes == file.num_bytes else f"{file.name} has {num_bytes:,} bytes instead of {file.num_bytes:,}"


def _wrong_content(checkpoint: Path, file: FileRecord) -> str:
    try:
        found = file_record(file.path(checkpoint), file.name, file.role)
    except OSError as error:
        return f"{file.name} cannot be read: {error}"
    return "" if found.xxh3_128 == file.xxh3_128 else f"{file.name} has other bytes than were written (xxh3-128)"


def _without_marker(checkpoint: Path) -> str:
    if not (checkpoint / INDEX).is_file():
        return f"no {MARKER}: no checkpoint, or one that was not written to its end"
    return (
        f"no {MARKER}: it was not saved by this version, or the file was removed. If you know it to be whole, "
        f"`titan-speech checkpoint adopt {checkpoint}` writes one"
    )


def adopt(checkpoint: Path) -> Commit:
    """Write the marker of a DCP checkpoint from elsewhere, from the files as they are.

    Raises:
        CheckpointError: it is no DCP checkpoint, or a file its index names is missing or too short.
    """
    from torch.distributed.checkpoint import FileSystemReader

    match = STEP_NAME.fullmatch(checkpoint.name)
    if match is None or not (checkpoint / INDEX).is_file():
        raise CheckpointError(f"{checkpoint} is no DCP checkpoint: expected a folder step-N with {INDEX} in it")
    metadata = FileSystemReader(checkpoint).read_metadata()
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
    files.append(file_record(checkpoint / INDEX, INDEX, "index"))
    commit = Commit(int(match[1]), "full" if is_full else "model", "adopted", time.time(), 0, tuple(files))
    checkpoint.replace(partial_path(checkpoint))
    publish(checkpoint, commit)
    return commit
