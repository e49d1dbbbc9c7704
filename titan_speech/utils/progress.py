"""Progress of a long job: one line on stderr with rate and time left.

In: a total in some unit, and the amounts done, from any thread. Out: one line that is rewritten on a terminal, or a new
line every 30 s in a log. Jobs of less than two seconds print nothing.
"""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import TextIO

FIRST_SEC = 2.0
TERMINAL_SEC, LOG_SEC = 0.5, 30.0


class ProgressLine:
    """A line that is printed from time to time; the caller provides its text."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._start = time.monotonic()
        self._next_show = self._start + FIRST_SEC
        self._is_open = False

    @property
    def elapsed_sec(self) -> float:
        return time.monotonic() - self._start

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._next_show

    def show(self, line: str) -> None:
        """Print the line, over the one before on a terminal."""
        self._next_show = time.monotonic() + (TERMINAL_SEC if self._on_terminal else LOG_SEC)
        if self._on_terminal:
            print(f"\r{line:<110}", end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)
        self._is_open = self._on_terminal

    def close(self) -> None:
        """Keep the last line on a terminal."""
        if self._is_open:
            print(file=self._stream)
        self._is_open = False


class Progress:
    """Progress of one job: `with Progress("verify", num_bytes, "MB", 1e6) as progress: progress.add(...)`."""

    def __init__(self, what: str, total: float, unit: str, scale: float = 1.0, stream: TextIO | None = None) -> None:
        """
        Args:
            what: name of the job.
            total: amount of the whole job; amounts are divided by `scale` to print them in `unit`.
            unit: the unit that is printed.
            scale: what one `unit` is in the amounts given to `add` and `update`.
            stream: where lines are printed; stderr if None.
        """
        self._what, self._total, self._unit, self._scale = what, total, unit, scale
        self._line, self._done, self._lock = ProgressLine(stream), 0.0, Lock()

    def add(self, amount: float) -> None:
        """Count an amount as done."""
        with self._lock:
            self._done += amount
            self._show_if_due()

    def update(self, done: float) -> None:
        """Set the amount that is done in total."""
        with self._lock:
            self._done = done
            self._show_if_due()

    def _show_if_due(self) -> None:
        if self._line.is_due:
            self._line.show(self._text(self._line.elapsed_sec))

    def _text(self, elapsed_sec: float) -> str:
        rate = self._done / elapsed_sec
        left_sec = (self._total - self._done) / rate if rate else 0.0
        share = self._done / self._total if self._total else 1.0
        done, total, speed = (value / self._scale for value in (self._done, self._total, rate))
        return (
            f"{self._what}: {share:.0%}, {done:,.0f} of {total:,.0f} {self._unit}, {speed:,.1f} {self._unit}/s, "
            f"{clock(left_sec)} left"
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()


def clock(seconds: float) -> str:
    """A duration as 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_to_stderr(line: str) -> None:
    """Print one message of a job."""
    print(line, file=sys.stderr, flush=True)
