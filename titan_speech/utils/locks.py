"""Locks on files: one job per run folder, one process per work folder, and locks that last for a block.

In: a run folder, or a file. Out: `run.lock` in the folder, held by rank 0 while the process lives, with a record of the
holder; or a lock on the file, until a block ends or its descriptor is closed.

Who holds a run folder is decided in two ways. On one machine (one kernel, recognized by its boot id) the operating
system decides: a POSIX lock on the file, which ends with the process however it ends, so a job that was killed never
blocks the next one. Between machines such locks may not be seen, so the holder also counts up a number in the file
every 5 s; whoever finds the record of another machine watches it for 20 s by its own clock. If the number changes, the
holder is alive and the newcomer is refused; if not, the holder is gone and the newcomer takes the lock. No wall clock
is compared with another. docs/design.md says why it is not filelock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from titan_speech.errors import CheckpointError, DataError
from titan_speech.utils.safe_path import open_without_link

LOCK_NAME = "run.lock"
BEAT_SEC = 5.0
WATCH_SEC = 20.0
RECORD_BYTES = 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""Errors of `flock` on a file system that has no locks."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a run folder."""

    host: str
    pid: int
    kernel: str
    """Boot id of the machine; processes with the same one see each other's locks."""

    beats: int = 0

    @classmethod
    def this_process(cls) -> Holder:
        kernel = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else socket.gethostname()
        return cls(socket.gethostname(), os.getpid(), kernel)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class RunLock:
    """`with RunLock.take(folder):`; also released by `release` or the end of the process."""

    def __init__(self, descriptor: int, holder: Holder, beat_sec: float, created: Path | None = None) -> None:
        """`created`: the folder, if it did not exist before."""
        self._descriptor, self._holder, self._created = descriptor, holder, created
        self._released = threading.Event()
        self._write_record()
        self._thread = threading.Thread(target=self._beat, args=(beat_sec,), name="run-lock", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, folder: Path, *, beat_sec: float = BEAT_SEC, watch_sec: float = WATCH_SEC) -> RunLock:
        """Lock a run folder, which is created if it does not exist.

        Raises:
            CheckpointError: another job writes to the folder.
            OSError: the folder cannot be written.
        """
        created = None if folder.exists() else folder
        folder.mkdir(parents=True, exist_ok=True)
        me, descriptor = Holder.this_process(), open_without_link(folder / LOCK_NAME)
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise _in_use(folder, _read_record(descriptor)) from error
            except OSError:  # a file system without locks: the record alone decides
                pass
            found = _read_record(descriptor)
            if found is not None and found.kernel != me.kernel and _is_beating(descriptor, found, watch_sec):
                raise _in_use(folder, found)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, me, beat_sec, created)

    def release(self) -> None:
        """Empty the record; a folder that was created for the lock and never written to is removed too."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        os.ftruncate(self._descriptor, 0)
        if self._created is not None and [path.name for path in self._created.iterdir()] == [LOCK_NAME]:
            (self._created / LOCK_NAME).unlink()
            self._created.rmdir()
        os.close(self._descriptor)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self, beat_sec: float) -> None:
        while not self._released.wait(beat_sec):
            self._holder = replace(self._holder, beats=self._holder.beats + 1)
            self._write_record()

    def _write_record(self) -> None:
        """In place, with a fixed length: closing a second descriptor of the file would drop the POSIX lock."""
        try:
            os.pwrite(self._descriptor, json.dumps(asdict(self._holder)).encode().ljust(RECORD_BYTES), 0)
            os.fsync(self._descriptor)
        except OSError:  # a full disk: a beat is missed, the lock of the operating system holds
            return


def _read_record(descriptor: int) -> Holder | None:
    """The holder's record, or None if it is missing or truncated."""
    try:
        return Holder(**json.loads(os.pread(descriptor, RECORD_BYTES, 0)))
    except (ValueError, TypeError, RecursionError):
        return None


def _is_beating(descriptor: int, found: Holder, watch_sec: float) -> bool:
    deadline = time.monotonic() + watch_sec
    while time.monotonic() < deadline:
        time.sleep(min(1.0, watch_sec / 10))
        now = _read_record(descriptor)
        if now is not None and now != found:
            return True
    return False


def _in_use(folder: Path, holder: Holder | None) -> CheckpointError:
    return CheckpointError(
        f"{folder} is in use by another job: {holder or 'a process that has just started'}. Two jobs in one folder "
        "would overwrite each other's checkpoints; stop that one, or give another output (of a run job.dump_folder)."
    )


@contextmanager
def try_lock(path: Path, mode: int) -> Iterator[bool]:
    """Lock an existing file until the block ends, without waiting; the kernel drops the lock with the process.

    On a file system without `flock` the answer is True and nothing is locked.

    Args:
        mode: fcntl.LOCK_SH or fcntl.LOCK_EX.

    Yields:
        False if another process holds the file, or it does not exist or was replaced meanwhile.
    """
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _flock(descriptor, mode) and _is_still_at(descriptor, path)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open for writing where that is allowed: network file systems give exclusive locks to writers only."""
    try:
        return os.open(path, os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY)


def _flock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return True


def _is_still_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`: it may have been replaced before the lock was taken."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def lock_or_refuse(path: Path, work: str) -> int:
    """Lock a file for this process alone, without waiting; the file is created.

    Args:
        path: of the file.
        work: what the holder does, for the message: "building in PATH".

    Returns:
        A descriptor: the lock is held until it is closed or the process ends.

    Raises:
        DataError: another process holds the lock, or the file system has no locks.
        UnsafePathError: a symbolic link stands at the path.
    """
    descriptor = open_without_link(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DataError(f"another process is {work} ({error}); wait for it or stop it") from error
    return descriptor


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the others wait. The file and its folder are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_without_link(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
