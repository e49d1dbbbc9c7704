"""The commit marker: what makes a folder of files a checkpoint.

In: the files of a checkpoint, with sizes and checksums taken while they were written. Out: `step-N/commit.json`,
written last (temporary file, fsync, rename, fsync of the folder). A folder without it is no checkpoint: it is never
loaded, listed as one or counted.

    RUN/checkpoint/step-40.partial/       being written, or left over from a save that was killed
    RUN/checkpoint/step-40/commit.json    complete: names every other file, and those beside it
    RUN/checkpoint/step-40/__0_model_0.distcp, __0_state_0.distcp, ..., .metadata
    RUN/checkpoint/provenance/step-40.json, data_phases/step-40.json, data_phases/3f...json

Checksums are xxh3-128, taken of the bytes on their way to the file: ten times as fast as sha256.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import xxhash

from titan_speech.errors import CheckpointError
from titan_speech.utils.safe_path import byte_count, relative_path

MARKER = "commit.json"
FORMAT_VERSION = 1
STEP_NAME = re.compile(r"step-(\d+)")
READ_BYTES = 1 << 18
"""What fits a core's cache: 4.9 GB of a file in memory are hashed in a second of one core, with 4 MB it is 3.2."""

Kind = Literal["full", "model"]
"""full: model, optimizer, schedule, data position; model: weights only, which nothing can be resumed from."""

Role = Literal["model", "state", "index", "beside"]
"""model: weights; state: all else a resume needs; index: DCP's .metadata; beside: records in the folder above."""


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint."""

    name: str
    """Relative to the checkpoint, or to the folder above it if `role` is beside."""

    num_bytes: int
    xxh3_128: str
    role: Role

    def path(self, checkpoint: Path) -> Path:
        return (checkpoint.parent if self.role == "beside" else checkpoint) / self.name


@dataclass(frozen=True)
class Commit:
    """What the marker says."""

    step: int
    kind: Kind
    reason: str
    """Why it was saved: schedule, wall time, last step, or what was asked for by name."""

    written_unix_sec: float
    world_size: int
    files: tuple[FileRecord, ...]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def to_json(self) -> str:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"


def commit_from_json(text: str) -> Commit:
    """The inverse of `Commit.to_json`.

    Raises:
        ValueError, KeyError, TypeError: the text is damaged or of a later version.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise TypeError(f"found {type(record).__name__}, expected an object")
    if record.pop("format_version") != FORMAT_VERSION:
        raise ValueError(f"a commit marker of another format than {FORMAT_VERSION}; update titan_speech")
    files = tuple(FileRecord(**file) for file in record.pop("files"))
    commit = Commit(files=files, **record)
    _check_types(commit)
    return commit


def _check_types(commit: Commit) -> None:
    """A marker edited by hand may hold anything, and one bad marker must not end a start that has sound ones."""
    expected = {"step": int, "reason": str, "written_unix_sec": (int, float), "world_size": int}
    _check_values(commit, expected, "kind", get_args(Kind))
    for file in commit.files:
        _check_values(file, {"name": str, "num_bytes": int, "xxh3_128": str}, "role", get_args(Role))
        relative_path(file.name)
        byte_count(file.num_bytes)


def _check_values(
    record: Commit | FileRecord, expected: dict[str, type | tuple[type, ...]], chosen: str, choices: tuple[str, ...]
) -> None:
    for name, kinds in expected.items():
        if not isinstance(getattr(record, name), kinds):
            raise TypeError(f"{name}: found {getattr(record, name)!r}")
    if getattr(record, chosen) not in choices:
        raise ValueError(f"{chosen}: found {getattr(record, chosen)!r}, expected one of {', '.join(choices)}")


def read_commit(checkpoint: Path) -> Commit | None:
    """The marker of a checkpoint (.../step-N); None where there is none.

    Raises:
        CheckpointError: it is there but damaged.
    """
    path = checkpoint / MARKER
    try:
        commit = commit_from_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}), so {checkpoint.name} cannot be trusted") from error
    return commit


def committed_steps(folder: Path) -> list[int]:
    """Steps of `folder` that have a marker, in rising order."""
    matches = (STEP_NAME.fullmatch(path.parent.name) for path in folder.glob(f"step-*/{MARKER}"))
    return sorted(int(match[1]) for match in matches if match)


def file_record(path: Path, name: str, role: Role) -> FileRecord:
    """Size and checksum of a file that is there."""
    digest, num_bytes, block = xxhash.xxh3_128(), 0, memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(block[:read])
            num_bytes += read
    return FileRecord(name, num_bytes, digest.hexdigest(), role)


def write_durably(path: Path, text: str) -> None:
    """A small file, whole or not at all, that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names in a folder are durable only once the folder is synced too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
