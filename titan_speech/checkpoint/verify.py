"""Whether a checkpoint is what its marker says.

In: a checkpoint folder. Out: every problem, in words, with the file's name. Sizes cost one stat a file. Checksums read
every byte, several files at once. The marker is no proof of itself: it must name all that lies in the folder and all
that DCP's index speaks of, and the index must be one that can be read without running what is in it.

A DCP checkpoint without a marker gets one.

In: a folder step-N that another program saved, or whose marker was lost. Out: its marker, with sizes and checksums of
the files as they are now, after a look whether all the index names is there; what lies beside it is named too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from titan_speech.checkpoint.commit import (
    INDEX,
    MARKER,
    STEP_NAME,
    Commit,
    FileRecord,
    Role,
    file_record,
    partial_path,
    publish,
    read_commit,
    role_of_name,
)
from titan_speech.checkpoint.dcp_index import read_index
from titan_speech.checkpoint.index import SUFFIX, indexed_files
from titan_speech.checkpoint.provenance import companion_records
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
    found = _wrong_step(checkpoint, commit) + _names_nothing(commit)
    found += _each(commit.files, partial(_wrong_size, checkpoint))
    found += _unnamed(commit, _in_folder(checkpoint), "lies in the folder")
    if checksums and not found:
        found = _each(commit.files, partial(_wrong_content, checkpoint)) or _wrong_index(checkpoint, commit)
    return Verification(checkpoint, commit, tuple(found))


def _each(files: tuple[FileRecord, ...], look: Callable[[FileRecord], str]) -> list[str]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [problem for problem in pool.map(look, files) if problem]


def _wrong_step(checkpoint: Path, commit: Commit) -> list[str]:
    is_same = checkpoint.name == f"step-{commit.step}"
    return [] if is_same else [f"{MARKER} is of step {commit.step}; the folder was renamed or the file copied"]


def _names_nothing(commit: Commit) -> list[str]:
    """With no file to look at, nothing would be found wrong."""
    return [] if commit.files else [f"{MARKER} names no files"]


def _in_folder(checkpoint: Path) -> set[str]:
    """Files that a save writes; notes that somebody puts beside them harm nothing."""
    try:
        return {path.name for path in checkpoint.iterdir() if path.name == INDEX or path.suffix == SUFFIX}
    except FileNotFoundError:  # removed meanwhile by its run: the sizes have told
        return set()


def _wrong_index(checkpoint: Path, commit: Commit) -> list[str]:
    """Of a checkpoint whose files are as they were written; a node without rank 0 may have no index."""
    try:
        names = indexed_files(checkpoint / INDEX)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{INDEX} cannot be read: {error}"]
    except CheckpointError as error:
        return [str(error)]
    return _unnamed(commit, names, f"is spoken of by {INDEX}")


def _unnamed(commit: Commit, names: Set[str], why: str) -> list[str]:
    missing = sorted(names - {file.name for file in commit.files})
    if not missing:
        return []
    more = f" (nor {len(missing) - 1} others)" if len(missing) > 1 else ""
    return [f"{MARKER} does not name {missing[0]}{more}, which {why}: it was edited, or is of another checkpoint"]


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
        f"`titan-speech checkpoint mark {checkpoint}` writes one"
    )


def write_marker(checkpoint: Path) -> Commit:
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
    files += [file_record(checkpoint / INDEX, INDEX, "index"), *companion_records(checkpoint)]
    commit = Commit(int(match[1]), "full" if is_full else "model", "adopted", time.time(), 0, tuple(files))
    checkpoint.replace(partial_path(checkpoint))
    publish(checkpoint, commit)
    return commit
