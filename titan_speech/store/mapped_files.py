"""Token files of folders that this process has mapped, looked at again while a run reads them.

In: each file as it was when its checksum was compared. Out: a `DataError` if one holds other bytes now.

A file's checksum is compared when it is first opened (reader.py), and what is mapped afterwards follows every later
change of the file. So the process that builds batches looks again, between batches: size, time of change and place on
the disk of each mapped file, and the checksum of those where one of them differs (a file that was only touched or
copied over by itself is fine). Time of change is ctime, which tools cannot set back. The check takes 6 us of a core per
file on a local disk (30 ms for 5,000 files), at most every 10 s and at most 1 % of the reader's time; the trainer does
not wait for it. What it does not see: damage by the disk itself, whose times do not change; the next start does.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.utils.checksum import Recorded, is_intact

CHECK_EVERY_SEC = 10.0
MAX_SHARE = 0.01
"""Of the time, that checks may take: on a network file system one takes longer."""


@dataclass(frozen=True)
class FileState:
    """What changes with the bytes of a file."""

    num_bytes: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        return cls(found.st_size, found.st_ctime_ns, found.st_ino)


class MappedFiles:
    """The mapped files of a process; forked workers begin with those of their parent, whose mappings they have too."""

    def __init__(self) -> None:
        self._files: dict[Path, tuple[FileState, Recorded]] = {}
        self._lock = threading.Lock()
        self._next_sec = 0.0

    def add(self, path: Path, state: FileState, recorded: Recorded) -> None:
        """`state` as it was before the checksum was computed."""
        with self._lock:
            self._files[path] = (state, recorded)

    def forget(self) -> None:
        """Stop checking all files known so far."""
        with self._lock:
            self._files.clear()

    def check(self, *, now: bool = False) -> None:
        """Look at every file if it is time, or `now`.

        Raises:
            DataError: a file holds other bytes than those that were verified.
        """
        began = time.monotonic()
        if not now and began < self._next_sec:
            return
        with self._lock:
            files = list(self._files.items())
        for path, (state, recorded) in files:
            self._check(path, state, recorded)
        ended = time.monotonic()
        self._next_sec = ended + max(CHECK_EVERY_SEC, (ended - began) / MAX_SHARE)

    def _check(self, path: Path, state: FileState, recorded: Recorded) -> None:
        try:
            found = FileState.of(os.stat(path))
            if found == state or found.inode != state.inode:  # another file of that name: the mapped one is unchanged
                return
            with open(path, "rb") as opened:
                is_same = found.num_bytes == state.num_bytes and is_intact(opened, recorded)
        except FileNotFoundError:
            return  # removed: the mapped one stays until it is closed
        except OSError as error:
            raise DataError(f"{path} can no longer be read ({error}); this run has it mapped") from error
        if not is_same:
            clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.changed_ns / 1e9))
            raise DataError(
                f"{path} was changed while this run read it: {found.num_bytes:,} bytes, expected {state.num_bytes:,}, "
                f"changed at {clock}. Batches of this run may hold wrong tokens since then: copy "
                "the file again from where the store came from, or rebuild the store, and resume from a checkpoint "
                "that was saved before (titan-speech checkpoint list; checkpoint.load_step)"
            )
        self.add(path, found, recorded)


mapped_files = MappedFiles()
"""Of this process."""
