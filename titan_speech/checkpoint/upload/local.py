"""Who may take a checkpoint away: nobody while it is being uploaded.

In: a checkpoint folder with its commit marker. Out: a lock on the marker, shared by those that read the checkpoint's
files, exclusive for the one that removes or thins it. Locks are `flock`s: the kernel drops them with the process,
however it ends, so nothing that was killed keeps a checkpoint for ever. Nobody waits: an upload finds its checkpoint
gone, or retention leaves one out until its next turn. On a file system without `flock` both go on unlocked: an upload
whose files vanish ends without a manifest, so what is incomplete still never counts.

Checkpoints of this node that could be sent.

In: a run's folder and that of its checkpoints. Out: what is committed, with the files that this node has and those that
only other nodes have: without a shared file system a node holds what its ranks wrote, and the marker names the files of
all. Milestones as Hugging Face folders count too: RUN/hf/step-N has its name only when it is whole.

Which checkpoint is sent next.

In: what lies complete in the folder and not yet at the address. Out: one of them. What was begun is finished first, so
that a slow network ends one checkpoint after the other instead of beginning many. Then, where several wait, the newest
full one: should the machine go away now, that is the one to go on from. The others follow, the oldest first.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, STEP_NAME, FileRecord, checkpoint_path, committed_steps, read_commit
from titan_speech.errors import CheckpointError
from titan_speech.model.exported_files import MODEL_RECORD_NAME, find_exported_files

logger = logging.getLogger(__name__)

_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def kept_for_upload(checkpoint: Path) -> Iterator[bool]:
    """Whether the checkpoint is there; if so it stays until the block ends."""
    with _locked(checkpoint / MARKER, fcntl.LOCK_SH) as is_held:
        yield is_held


@contextmanager
def free_to_remove(checkpoint: Path) -> Iterator[bool]:
    """Whether nobody uploads it, and nobody begins to until the block ends; False too if it is not there."""
    with _locked(checkpoint / MARKER, fcntl.LOCK_EX) as is_held:
        yield is_held


@contextmanager
def _locked(path: Path, mode: int) -> Iterator[bool]:
    try:
        file_number = _open(path)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock(file_number, mode) and _is_named(file_number, path)
    finally:
        os.close(file_number)


def _open(path: Path) -> int:
    """For writing where that is allowed: network file systems give exclusive locks to writers only."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY)


def _lock(file_number: int, mode: int) -> bool:
    try:
        fcntl.flock(file_number, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _is_named(file_number: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: it may have been replaced before the lock was taken."""
    try:
        return os.path.samestat(os.fstat(file_number), os.stat(path))
    except FileNotFoundError:
        return False


HF = "hf"


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint in a folder of this node."""

    path: Path
    name: str
    """At the address: step-N, or hf-N."""

    step: int
    kind: str
    written_unix_sec: float
    files: tuple[FileRecord, ...]
    marker_sha256: str
    """Tells it from another checkpoint of the same step."""

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    @property
    def marker_path(self) -> str:
        """Below the folder, and below the prefix."""
        return f"{self.name}/{MARKER}"

    def path_of(self, file: FileRecord) -> str:
        """Below the prefix."""
        return file.name if file.role == "beside" else f"{self.name}/{file.name}"

    def kept(self) -> AbstractContextManager[bool]:
        """Retention leaves it alone until the block ends (Hugging Face folders it never removes); False: it is gone."""
        return nullcontext(self.path.is_dir()) if self.kind == HF else kept_for_upload(self.path)


def local_checkpoint(path: Path) -> LocalCheckpoint | None:
    """None where there is no marker, or a damaged one, which `checkpoint verify` tells of."""
    try:
        commit = read_commit(path)
        marker = (path / MARKER).read_bytes()
    except (CheckpointError, OSError):
        return None
    if commit is None:
        return None
    digest = hashlib.sha256(marker).hexdigest()
    return LocalCheckpoint(path, path.name, commit.step, commit.kind, commit.written_unix_sec, commit.files, digest)


def local_checkpoints(folder: Path, kinds: Collection[str]) -> list[LocalCheckpoint]:
    """Committed ones of the kinds, by rising step."""
    found = (local_checkpoint(checkpoint_path(folder, step)) for step in committed_steps(folder))
    return [one for one in found if one is not None and one.kind in kinds]


def hf_folders(run: Path) -> list[LocalCheckpoint]:
    """Milestones as Hugging Face folders; names, sizes and their record tell them apart: they have no checksums."""
    matches = [(path, STEP_NAME.fullmatch(path.name)) for path in (run / HF).glob("step-*")]
    found = (_hf_folder(path, int(match[1])) for path, match in matches if match and path.is_dir())
    return [one for one in found if one is not None]


def _hf_folder(path: Path, step: int) -> LocalCheckpoint | None:
    """The files of the export alone; None for a folder with symbolic links in their place, which is not uploaded."""
    if path.is_symlink():
        _warn_once(f"{path} is not uploaded: it is a symbolic link; expected the folder itself")
        return None
    found = find_exported_files(path)
    if found.links:
        _warn_once(
            f"{path} is not uploaded: not a regular file: {', '.join(found.links)}; symbolic links are not followed: "
            "put the files in their place, or delete the folder to have the milestone exported again"
        )
        return None
    if found.others:
        _warn_once(f"{path}: not uploaded, as no export has such files: {', '.join(found.others)}")
    files = tuple(FileRecord(name, (path / name).stat().st_size, "", "model") for name in found.files)
    told = [(file.name, file.num_bytes) for file in files], hf_record_sha256(path)
    digest = hashlib.sha256(repr(told).encode()).hexdigest()
    return LocalCheckpoint(path, f"{HF}-{step}", step, HF, path.stat().st_mtime, files, digest)


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning once per process: folders are listed several times per upload pass."""
    logger.warning("%s", message)


def hf_record_sha256(path: Path) -> str:
    """Of a folder's record, which has a fingerprint of the weights: it differs where a run reached a step twice.
    Empty where the folder has none."""
    record = path / MODEL_RECORD_NAME
    return hashlib.sha256(record.read_bytes()).hexdigest() if record.is_file() else ""


def next_to_send(
    waiting: Sequence[LocalCheckpoint], newest_sent_step: int = -1, begun: str | None = None
) -> LocalCheckpoint | None:
    """`newest_sent_step` is the step of the newest full checkpoint that is complete at the address already."""
    for one in waiting:
        if one.name == begun:
            return one
    newest = max((one for one in waiting if one.kind == "full"), key=lambda one: one.step, default=None)
    if newest is not None and newest.step > newest_sent_step:
        return newest
    return min(waiting, key=lambda one: (one.step, one.kind != "full"), default=None)
