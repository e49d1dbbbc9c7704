"""A limit of bytes a second, shared by the threads of a process.

In: a rate and the sizes of what is about to be sent. Out: waits, so that the rate holds on average; what is sent at
once (a part of 16 MB) goes as fast as the network takes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock


class Pace:
    """`take(num_bytes)` returns when these bytes may go; a rate of 0 is no limit."""

    def __init__(
        self,
        bytes_per_sec: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_sec, self._now, self._sleep = bytes_per_sec, now, sleep
        self._free_at, self._lock = now(), Lock()

    def take(self, num_bytes: int) -> None:
        if not self.bytes_per_sec:
            return
        with self._lock:
            begin = max(self._free_at, self._now())
            self._free_at = begin + num_bytes / self.bytes_per_sec
        self._sleep(max(0.0, begin - self._now()))
