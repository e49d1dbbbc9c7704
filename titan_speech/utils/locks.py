"""One job a run folder: the second is refused.

In: a run folder. Out: `run.lock` in it, held by rank 0 for as long as the process lives, with a record of who it is.

Who holds it is decided in two ways. On one machine (one kernel, told by its boot id) the operating system decides: a
POSIX lock on the file, which goes with the process however it ends, so a job that was killed never blocks the next one.
Between machines such locks may not be seen, so the holder also counts up a number in the file every 5 s; who finds the
record of another machine watches it for 20 s by its own clock. If the number moves the holder lives and the newcomer is
refused; if it stands still the holder is gone and the lock is taken over. No wall clock is compared with another.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from titan_speech.errors import CheckpointError

LOCK_NAME = "run.lock"
BEAT_SEC = 5.0
WATCH_SEC = 20.0
RECORD_BYTES = 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder."""

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
    """`RunLock.take(folder)`; let go by `release` or the end of the process."""

    def __init__(self, descriptor: int, holder: Holder, beat_sec: float, made: Path | None = None) -> None:
        """`made`: the folder, if there was none before."""
        self._descriptor, self._holder, self._made = descriptor, holder, made
        self._ended = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, args=(beat_sec,), name="run-lock", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, folder: Path, *, beat_sec: float = BEAT_SEC, watch_sec: float = WATCH_SEC) -> RunLock:
        """Hold `folder`.

        Raises:
            CheckpointError: another job writes to it.
        """
        made = None if folder.exists() else folder
        folder.mkdir(parents=True, exist_ok=True)
        me, descriptor = Holder.this_process(), os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, folder)
            found = _read(descriptor)
            if found is not None and found.kernel != me.kernel and _is_beating(descriptor, found, watch_sec):
                raise _refusal(folder, found)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, me, beat_sec, made)

    def release(self) -> None:
        """Let go, with no record left, nor the folder if it was made for the lock and never written to."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        os.ftruncate(self._descriptor, 0)
        if self._made is not None and [path.name for path in self._made.iterdir()] == [LOCK_NAME]:
            (self._made / LOCK_NAME).unlink()
            self._made.rmdir()
        os.close(self._descriptor)

    def _beat(self, beat_sec: float) -> None:
        while not self._ended.wait(beat_sec):
            self._holder = replace(self._holder, beats=self._holder.beats + 1)
            self._write()

    def _write(self) -> None:
        """In place and of one length, since closing a second descriptor of the file would drop the POSIX lock."""
        try:
            os.pwrite(self._descriptor, json.dumps(asdict(self._holder)).encode().ljust(RECORD_BYTES), 0)
            os.fsync(self._descriptor)
        except OSError:  # a full disk: a beat is missed, the lock of the operating system holds
            return


_HELD: list[RunLock] = []


def hold_run_lock(folder: Path) -> None:
    """Hold `folder` until `let_go`, or the end of this process.

    Raises:
        CheckpointError: another job writes to it.
    """
    _HELD.append(RunLock.take(folder))
    atexit.register(release_run_locks)


def release_run_locks() -> None:
    """Let go of what this process holds."""
    while _HELD:
        _HELD.pop().release()


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise _refusal(folder, _read(descriptor)) from error
    except OSError:  # a file system without locks: the record alone decides
        return


def _read(descriptor: int) -> Holder | None:
    """The record; None where there is none, or half of one."""
    try:
        return Holder(**json.loads(os.pread(descriptor, RECORD_BYTES, 0)))
    except (ValueError, TypeError):
        return None


def _is_beating(descriptor: int, found: Holder, watch_sec: float) -> bool:
    deadline = time.monotonic() + watch_sec
    while time.monotonic() < deadline:
        time.sleep(min(1.0, watch_sec / 10))
        now = _read(descriptor)
        if now is not None and now != found:
            return True
    return False


def _refusal(folder: Path, holder: Holder | None) -> CheckpointError:
    return CheckpointError(
        f"{folder} is in use by another job: {holder or 'a process that has just begun'}. Two jobs in one folder would "
        "overwrite each other's checkpoints; stop that one, or give another job.dump_folder."
    )
