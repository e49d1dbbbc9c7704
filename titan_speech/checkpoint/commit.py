"""The commit marker: the only definition of a complete checkpoint, and how checkpoint folders appear and disappear.

In: the files of a checkpoint, with the sizes and checksums that were taken while they were written.
Out: `step-N/commit.json`, written last. A folder without it is not a checkpoint: it is never loaded, listed as one,
continued from or counted, whatever else is in it (DCP's `.metadata` says that rank 0 had finished, not that all files
are there).

    RUN/checkpoint/step-40.partial/       being written, or left by a save that was killed
    RUN/checkpoint/step-40/commit.json    complete: names every other file, and its companion files
    RUN/checkpoint/step-40/__0_model_0.distcp, __0_state_0.distcp, ..., .metadata
    RUN/checkpoint/step-40.deleted/       being removed
    RUN/checkpoint/step-40.rolled-back/   newer than the checkpoint a rollback went back to
    RUN/checkpoint/provenance/step-40.json, data_phases/step-40.json, data_phases/3f...json    companion files

How folders get and lose these names is in folders.py. Checksums are xxh3-128 of the bytes on their way to the file: ten
times as fast as sha256.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import xxhash

from titan_speech.errors import CheckpointError
from titan_speech.utils.json_text import parse_json, read_small_file
from titan_speech.utils.record_types import check_types
from titan_speech.utils.safe_path import byte_count, relative_path

MARKER = "commit.json"
FORMAT_VERSION = 1
INDEX = ".metadata"
"""DCP's index: names, shapes, and the place of each piece."""

STATE_KEYS = ("optimizer", "lr_scheduler", "dataloader", "train_state")
"""TorchTitan's keys for everything but the weights; they are part of the format, so they are not imported."""

READ_BYTES = 1 << 18
"""Fits a core's cache: one core hashes 4.9 GB of a file in memory per second, with blocks of 4 MB 3.2 GB."""

Kind = Literal["full", "model"]
"""full: model, optimizer, schedule, read positions; model: weights only, from which no run can resume."""

Role = Literal["model", "state", "index", "beside"]
"""model: weights; state: all else a resume needs; index: DCP's .metadata; beside: companion files, one folder up."""

_PREFIXES = tuple(f"{key}." for key in STATE_KEYS)
_STEP_NAME = re.compile(r"step-(\d+)")


def step_name(step: int) -> str:
    """The name of a checkpoint folder, "step-40"; the only place that builds it."""
    return f"step-{step}"


def step_from_name(name: str) -> int | None:
    """The step of a folder called "step-40"; None for any other name. The only place that parses it."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Checkpoint:
    """The folder of one checkpoint, .../step-N, and its step."""

    path: Path
    step: int

    @classmethod
    def at(cls, path: Path) -> Checkpoint:
        """The checkpoint whose folder is `path`; it need not exist.

        Raises:
            CheckpointError: the folder is not called step-N.
        """
        step = step_from_name(path.name)
        if step is None:
            raise CheckpointError(f"{path} is not a checkpoint: expected a folder called step-N")
        return cls(path, step)


def checkpoint_path(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of `step` in a folder of checkpoints."""
    return folder / step_name(step)


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint."""

    name: str
    """Relative to the checkpoint, or to the folder above it if `role` is "beside"."""

    num_bytes: int
    xxh3_128: str
    role: Role

    def path(self, checkpoint: Path) -> Path:
        return (checkpoint.parent if self.role == "beside" else checkpoint) / self.name


@dataclass(frozen=True)
class Commit:
    """The content of the marker."""

    step: int
    kind: Kind
    reason: str
    """Why it was saved: schedule, wall time, last step, or the name of what requested it."""

    written_unix_sec: float
    world_size: int
    files: tuple[FileRecord, ...]
    suspect: str = ""
    """Why its weights are probably of no use (checkpoint/suspect.py); empty: nothing is known against them."""

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def to_json(self) -> str:
        record = {"format_version": FORMAT_VERSION, **asdict(self)}
        if not self.suspect:  # so that earlier versions read all other markers
            del record["suspect"]
        return json.dumps(record, indent=1) + "\n"


def commit_from_json(text: str) -> Commit:
    """The inverse of `Commit.to_json`.

    Raises:
        ValueError, KeyError, TypeError: the text is damaged or of a later version.
    """
    record = parse_json(text)
    if not isinstance(record, dict):
        raise TypeError(f"found {type(record).__name__}, expected an object")
    if record.pop("format_version") != FORMAT_VERSION:
        raise ValueError(f"a commit marker of another format than {FORMAT_VERSION}; update titan_speech")
    commit = Commit(files=tuple(FileRecord(**file) for file in record.pop("files")), **record)
    # A marker edited by hand may hold anything, and one bad marker must not end a start that has sound checkpoints.
    check_types(commit)
    for file in commit.files:
        relative_path(file.name)
        byte_count(file.num_bytes)
    return commit


def read_commit(checkpoint: Path) -> Commit | None:
    """The marker of a checkpoint.

    Args:
        checkpoint: its folder, .../step-N.

    Returns:
        The marker, or None if the file is missing: the folder is then not a complete checkpoint.

    Raises:
        CheckpointError: the marker is damaged.
    """
    path = checkpoint / MARKER
    try:
        return commit_from_json(read_small_file(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}), so {checkpoint.name} cannot be trusted") from error


def committed_checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints of a folder that have a marker.

    Args:
        folder: the folder of checkpoints, RUN/checkpoint.

    Returns:
        Checkpoints by rising step; their files are not read.
    """
    paths = (path.parent for path in folder.glob(f"step-*/{MARKER}"))
    found = [Checkpoint(path, step) for path in paths if (step := step_from_name(path.name)) is not None]
    return sorted(found, key=lambda one: one.step)


def committed_steps(folder: Path) -> list[int]:
    """Steps of a folder that have a marker, rising."""
    return [one.step for one in committed_checkpoints(folder)]


def existing_text(steps: Sequence[int]) -> str:
    """Which checkpoints there are, for a message that another one is missing."""
    return f"there are the steps {', '.join(map(str, steps))}" if steps else "no step is complete"


def suspicion(checkpoint: Path) -> str:
    """Why a checkpoint (.../step-N) is suspect; empty if it is not, or has no marker that can be read."""
    try:
        commit = read_commit(checkpoint)
    except CheckpointError:
        return ""
    return commit.suspect if commit is not None else ""


def unsuspected_steps(folder: Path) -> list[int]:
    """Steps of a folder that have a marker and are not suspect, rising."""
    return [one.step for one in committed_checkpoints(folder) if not suspicion(one.path)]


def newest_unsuspected(complete: Sequence[Checkpoint]) -> tuple[Checkpoint, str]:
    """What is taken where no step is named.

    Args:
        complete: checkpoints by rising step, at least one.

    Returns:
        The newest checkpoint that is not suspect, or the newest if all are; and what the user should know of it.
    """
    suspects = {one.step: why for one in complete if (why := suspicion(one.path))}
    found = next((one for one in reversed(complete) if one.step not in suspects), complete[-1])
    if found.step in suspects:
        return found, f"{found.path} is suspect: {suspects[found.step]}"
    newer = [f"step {step}: {why}" for step, why in suspects.items() if step > found.step]
    return found, f"{found.path} is taken; newer ones are suspect: {'; '.join(newer)}" if newer else ""


def committed_at(path: Path) -> list[Checkpoint]:
    """Complete checkpoints that a path given by a user means, newest first.

    Args:
        path: a checkpoint, a folder of checkpoints, or a run folder, which holds one under any name.
    """
    if step_from_name(path.name) is not None:
        return [Checkpoint.at(path)] if (path / MARKER).is_file() else []
    found = [one for folder in (path, *path.glob("*/")) for one in committed_checkpoints(folder)]
    return sorted(found, key=lambda one: one.step, reverse=True)


def unmarked_checkpoints(path: Path) -> list[Checkpoint]:
    """Folders step-N at a path given by a user that have DCP's index and no marker, by rising step."""
    if step_from_name(path.name) is not None:
        indices = [path / INDEX]
    else:
        indices = [index for pattern in ("step-*", "*/step-*") for index in path.glob(f"{pattern}/{INDEX}")]
    folders = [index.parent for index in indices if index.is_file() and not (index.parent / MARKER).exists()]
    found = [Checkpoint.at(folder) for folder in folders if step_from_name(folder.name) is not None]
    return sorted(found, key=lambda one: one.step)


def role_of_name(name: str) -> Role:
    """The role of a name in DCP's flat state: what is under none of TorchTitan's own keys is a weight."""
    return "state" if f"{name}.".startswith(_PREFIXES) else "model"


def file_record(path: Path, name: str, role: Role) -> FileRecord:
    """Read a file for its size and checksum."""
    digest, num_bytes, block = xxhash.xxh3_128(), 0, memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(block[:read])
            num_bytes += read
    return FileRecord(name, num_bytes, digest.hexdigest(), role)
