"""Who may take a checkpoint away: nobody while it is being uploaded.

In: a checkpoint folder with its commit marker. Out: a lock on the marker, shared by those that read the checkpoint's
files, exclusive for the one that removes or thins it. Locks are `flock`s: the kernel drops them with the process,
however it ends, so nothing that was killed keeps a checkpoint for ever. Nobody waits: an upload finds its checkpoint
gone, or retention leaves one out until its next turn. On a file system without `flock` both go on unlocked: an upload
whose files vanish ends without a manifest, so what is incomplete still never counts.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER

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
