"""How far a transfer is, on stderr.

In: files as they are done. Out: at most one line a second with the rate and the time left, and one at the end.
"""

from __future__ import annotations

import sys
import threading
import time


class Progress:
    """Counts files and bytes; threads may report at once."""

    def __init__(self, what: str, num_files: int, num_bytes: int) -> None:
        self._what, self._num_files, self._num_bytes = what, num_files, num_bytes
        self._files_done = self._bytes_done = 0
        self._began = self._last_line = time.monotonic()
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._files_done += 1
            self._bytes_done += num_bytes
            now = time.monotonic()
            if self._files_done == self._num_files or now - self._last_line >= 1:
                self._last_line = now
                print(self._line(max(now - self._began, 1e-9)), file=sys.stderr, flush=True)

    def _line(self, elapsed_sec: float) -> str:
        rate = self._bytes_done / elapsed_sec
        left = f", {max(self._num_bytes - self._bytes_done, 0) / rate:,.0f} s left" if rate else ""
        return (
            f"{self._what}: {self._files_done:,} of {self._num_files:,} files, {self._bytes_done / 1e6:,.1f} of "
            f"{self._num_bytes / 1e6:,.1f} MB, {rate / 1e6:,.1f} MB/s{left}"
        )
