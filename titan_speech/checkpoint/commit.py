"""The commit marker: what makes a folder of files a checkpoint.

In: the files of a checkpoint, with sizes and checksums taken while they were written. Out: `step-N/commit.json`,
written last (temporary file, fsync, rename, fsync of the folder). A folder without it is no checkpoint: it is never
loaded, listed as one or counted.

    RUN/checkpoint/step-40.partial/       being written, or left over from a save that was killed
    RUN/checkpoint/step-40/commit.json    complete: names every other file, and those beside it
    RUN/checkpoint/step-40/__0_model_0.distcp, __0_state_0.distcp, ..., .metadata
    RUN/checkpoint/provenance/step-40.json, data_phases/step-40.json, data_phases/3f...json

Checksums are xxh3-128, taken of the bytes on their way to the file: ten times as fast as sha256.

Which names of a saved state are weights.

In: a name of DCP's flat state. Out: its role. TorchTitan saves weights under their own names and all else under a key
of its own; a checkpoint without those is one of weights only.

Folders of checkpoints: how one appears, is replaced, is thinned, goes, and what killed saves leave behind.

In: a checkpoint folder (RUN/checkpoint). Out: steps that are there as a whole or not at all. A save writes
step-N.partial and is renamed to step-N when its marker lies in it; what is deleted is first renamed to step-N.deleted.
Nothing is copied: a thinned checkpoint shares its files with the full one it came from by hard links.

Which ranks see the run folder of rank 0.

In: the folder, with the process group up. Out: the same answer on every rank. Without a shared file system a node has
only what its own ranks wrote, which decides who uploads and what retention may count on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import torch.distributed as dist
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


INDEX = ".metadata"
"""DCP's index: names, shapes, and the place of each piece."""

STATE_KEYS = ("optimizer", "lr_scheduler", "dataloader", "train_state")
"""TorchTitan's keys, without its import: they are part of the format."""

_PREFIXES = tuple(f"{key}." for key in STATE_KEYS)


def role_of_name(name: str) -> Role:
    return "state" if f"{name}.".startswith(_PREFIXES) else "model"


PARTIAL, DELETED, ROLLED_BACK = ".partial", ".deleted", ".rolled-back"


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step}"


def partial_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + PARTIAL)


def publish(checkpoint: Path, commit: Commit) -> None:
    """Make the partial folder of `checkpoint` the checkpoint; one that is there already is replaced.

    A kill before the rename leaves a partial folder with a marker, which `recover` puts in place.
    """
    partial = partial_path(checkpoint)
    write_durably(partial / MARKER, commit.to_json())
    _put_in_place(checkpoint)


def _put_in_place(checkpoint: Path) -> None:
    deleted = checkpoint.with_name(checkpoint.name + DELETED)
    if checkpoint.exists():
        shutil.rmtree(deleted, ignore_errors=True)
        checkpoint.replace(deleted)
    partial_path(checkpoint).replace(checkpoint)
    sync_folder(checkpoint.parent)
    shutil.rmtree(deleted, ignore_errors=True)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint; a kill in between leaves no half of it under its name."""
    deleted = checkpoint.with_name(checkpoint.name + DELETED)
    try:
        checkpoint.replace(deleted)
    except FileNotFoundError:
        return
    shutil.rmtree(deleted, ignore_errors=True)


def discard_partial(checkpoint: Path) -> None:
    """Remove what a save that failed has written."""
    shutil.rmtree(partial_path(checkpoint), ignore_errors=True)


def recover(folder: Path) -> list[str]:
    """Finish or remove what killed saves left; what was done, in words. Only for the run that holds the folder."""
    done = []
    for path in sorted(folder.glob("step-*")):
        name = path.name.removesuffix(PARTIAL).removesuffix(DELETED)
        if name == path.name or not STEP_NAME.fullmatch(name):
            continue
        if path.name.endswith(PARTIAL) and (path / MARKER).is_file():
            _put_in_place(folder / name)
            done.append(f"{name} was complete but for its name, and is in place now")
        else:
            shutil.rmtree(path, ignore_errors=True)
            done.append(f"{path.name} of a run that was stopped was removed")
    return done


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@dataclass(frozen=True)
class FreeSpace:
    """`sees_rank_0[r]`: whether the run folder of rank r is that of rank 0."""

    sees_rank_0: tuple[bool, ...]

    @property
    def are_shared(self) -> bool:
        return all(self.sees_rank_0)


def free_space(folder: Path) -> FreeSpace:
    """All ranks call it; nothing is written where one node has all ranks."""
    world_size = dist.get_world_size()
    if world_size == int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return FreeSpace((True,) * world_size)
    group, name = cast(dist.ProcessGroup, dist.new_group(backend="gloo")), [f".seen-{uuid.uuid4().hex}"]
    dist.broadcast_object_list(name, src=0, group=group)
    path = folder / name[0]
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    dist.barrier(group)
    seen: list[bool] = [False] * world_size
    dist.all_gather_object(seen, path.exists(), group=group)
    if dist.get_rank() == 0:
        path.unlink()
    dist.destroy_process_group(group)
    return FreeSpace(tuple(seen))
