"""How far a long job is: one line on stderr with rate and time left.

In: a total in some unit and what was done of it, from any thread. Out: a line that is rewritten on a terminal, or a new
line every 30 s in a log. Nothing is printed by jobs of less than two seconds.
"""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import TextIO


class Progress:
    """`with Progress("verify", num_bytes, "MB", 1e6) as progress: progress.add(...)`."""

    def __init__(self, what: str, total: float, unit: str, scale: float = 1.0, stream: TextIO | None = None) -> None:
        self._what, self._total, self._unit, self._scale = what, total, unit, scale
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._began = time.monotonic()
        self._due = self._began + 2
        self._done, self._printed, self._lock = 0.0, False, Lock()

    def add(self, amount: float) -> None:
        with self._lock:
            self._done += amount
            now = time.monotonic()
            if now >= self._due:
                self._due = now + (0.5 if self._on_terminal else 30)
                self._print(now - self._began)

    def _print(self, elapsed_sec: float) -> None:
        rate = self._done / elapsed_sec
        left_sec = (self._total - self._done) / rate if rate else 0.0
        share = self._done / self._total if self._total else 1.0
        done, total, speed = (value / self._scale for value in (self._done, self._total, rate))
        line = (
            f"{self._what}: {share:.0%}, {done:,.0f} of {total:,.0f} {self._unit}, {speed:,.1f} {self._unit}/s, "
            f"{clock(left_sec)} left"
        )
        print(f"\r{line:<100}" if self._on_terminal else line, end="" if self._on_terminal else "\n", file=self._stream)
        self._stream.flush()
        self._printed = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._printed and self._on_terminal:
            print(file=self._stream)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say_to_stderr(line: str) -> None:
    """What a job has to say beside its progress."""
    print(line, file=sys.stderr, flush=True)
