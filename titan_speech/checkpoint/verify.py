"""Whether a checkpoint is what its marker says, and a marker for a DCP checkpoint that has none.

In: a checkpoint folder.
Out: every problem, as a sentence with the file's name; or, for a folder step-N that another program saved or whose
marker was lost, its marker. Sizes cost one stat per file. Checksums read every byte, several files at once. The marker
is no proof of itself: it must name every file in the folder and every file that DCP's index names, and the index must
be one that can be read without running anything in it.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from titan_speech.checkpoint.commit import (
    INDEX,
    MARKER,
    Commit,
    FileRecord,
    Role,
    file_record,
    read_commit,
    role_of_name,
    step_from_name,
    step_name,
)
from titan_speech.checkpoint.folders import partial_path, publish
from titan_speech.checkpoint.provenance import companion_records
from titan_speech.errors import CheckpointError
from titan_speech.utils.printable import one_line

DCP_SUFFIX = ".distcp"
"""Ending of every file of tensors that DCP writes."""

NUM_THREADS = 8


@dataclass(frozen=True)
class CheckpointVerification:
    """A checkpoint with all its problems."""

    checkpoint: Path
    commit: Commit | None
    """None if the marker is missing or damaged."""
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        return not self.problems


def verify(checkpoint: Path, *, checksums: bool) -> CheckpointVerification:
    """Compare a checkpoint (.../step-N) with its marker.

    Args:
        checksums: also read every file and DCP's index.
    """
    try:
        commit = read_commit(checkpoint)
    except CheckpointError as error:
        return CheckpointVerification(checkpoint, None, (str(error),))
    if commit is None:
        return CheckpointVerification(checkpoint, None, (_missing_marker(checkpoint),))
    problems = []
    if checkpoint.name != step_name(commit.step):
        problems.append(f"{MARKER} is of step {commit.step}; the folder was renamed or the file copied")
    if not commit.files:  # with no file to look at, nothing would be found wrong
        problems.append(f"{MARKER} names no files")
    problems += _for_each_file(commit.files, partial(_wrong_size, checkpoint))
    problems += _not_in_marker(commit, _files_in(checkpoint), "is in the folder")
    if checksums and not problems:
        problems = _for_each_file(commit.files, partial(_wrong_content, checkpoint)) or _wrong_index(checkpoint, commit)
    return CheckpointVerification(checkpoint, commit, tuple(problems))


def _for_each_file(files: tuple[FileRecord, ...], check: Callable[[FileRecord], str]) -> list[str]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return [problem for problem in pool.map(check, files) if problem]


def _files_in(checkpoint: Path) -> set[str]:
    """Files that a save writes; other files that somebody adds do no harm."""
    try:
        return {path.name for path in checkpoint.iterdir() if path.name == INDEX or path.suffix == DCP_SUFFIX}
    except FileNotFoundError:  # removed meanwhile by its run: the sizes show it
        return set()


def _wrong_index(checkpoint: Path, commit: Commit) -> list[str]:
    """Problems of the index of a checkpoint whose files are as they were written; only rank 0's node has an index."""
    from titan_speech.checkpoint.index_reader import indexed_files  # which loads torch: sizes and bytes need none

    try:
        names = indexed_files(checkpoint / INDEX)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{INDEX} cannot be read: {error}"]
    except CheckpointError as error:
        return [str(error)]
    return _not_in_marker(commit, names, f"is named by {INDEX}")


def _not_in_marker(commit: Commit, names: Set[str], why: str) -> list[str]:
    missing = sorted(names - {file.name for file in commit.files})
    if not missing:
        return []
    more = f" (nor {len(missing) - 1} others)" if len(missing) > 1 else ""
    return [
        f"{MARKER} does not name {one_line(missing[0])}{more}, which {why}: it was edited, or is of another checkpoint"
    ]


def _wrong_size(checkpoint: Path, file: FileRecord) -> str:
    try:
        found = file.path(checkpoint).stat()
    except OSError as error:
        return f"{file.name} is missing" if isinstance(error, FileNotFoundError) else f"{file.name}: {error}"
    if not stat.S_ISREG(found.st_mode):  # it has 0 bytes and no end
        return f"{file.name} is not a regular file"
    num_bytes = found.st_size
    return "" if num_bytes == file.num_bytes else f"{file.name} has {num_bytes:,} bytes instead of {file.num_bytes:,}"


def _wrong_content(checkpoint: Path, file: FileRecord) -> str:
    try:
        found = file_record(file.path(checkpoint), file.name, file.role)
    except OSError as error:
        return f"{file.name} cannot be read: {error}"
    return "" if found.xxh3_128 == file.xxh3_128 else f"{file.name} has other bytes than were written (xxh3-128)"


def _missing_marker(checkpoint: Path) -> str:
    if not (checkpoint / INDEX).is_file():
        return f"no {MARKER}: not a checkpoint, or one that was not written to its end"
    return (
        f"no {MARKER}: it was not saved by this version, or the file was removed. If you know it to be whole, "
        f"`titan-speech checkpoint mark {checkpoint}` writes one"
    )


def write_marker(checkpoint: Path) -> Commit:
    """Write the marker of a DCP checkpoint from another program, from its files as they are.

    Raises:
        CheckpointError: it is not a DCP checkpoint, or has a marker; its index is refused; a file that the index names
            is missing or too short; or a companion file is damaged.
    """
    from titan_speech.checkpoint.index_reader import read_index  # which loads torch

    step = step_from_name(checkpoint.name)
    if step is None or not (checkpoint / INDEX).is_file():
        raise CheckpointError(f"{checkpoint} is not a DCP checkpoint: expected a folder step-N with {INDEX} in it")
    if (checkpoint / MARKER).exists():
        raise CheckpointError(
            f"{checkpoint} already has a marker, which records the bytes that were written: see titan-speech "
            f"checkpoint verify. If you know the files to be whole all the same, remove {MARKER} first"
        )
    metadata = read_index(checkpoint / INDEX)
    roles: dict[str, Role] = {}
    for index, place in metadata.storage_data.items():
        path = checkpoint / place.relative_path
        if not path.is_file() or path.stat().st_size < place.offset + place.length:
            raise CheckpointError(f"{path} is missing or was cut short: {INDEX} places {index.fqn} in it")
        is_model = "model" in (role_of_name(index.fqn), roles.get(place.relative_path))
        roles[place.relative_path] = "model" if is_model else "state"
    is_full = any(role_of_name(name) == "state" for name in metadata.state_dict_metadata)
    files = [file_record(checkpoint / name, name, role) for name, role in sorted(roles.items())]
    files += [file_record(checkpoint / INDEX, INDEX, "index"), *companion_records(checkpoint)]
    commit = Commit(step, "full" if is_full else "model", "adopted", time.time(), 0, tuple(files))
    checkpoint.replace(partial_path(checkpoint))
    publish(checkpoint, commit)
    return commit
