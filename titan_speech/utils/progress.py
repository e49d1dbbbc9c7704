"""Progress of a long job: one line on stderr with amounts, rate and time left.

In: a total, and how much of it is done, from any thread. Out: one line that is rewritten on a terminal, or a new line
every 30 s in a log. Jobs of less than two seconds print nothing. Tasks of several processes have task_progress.py.

The time left follows from a smoothed rate (`RateEstimate`) and is shown only once it means something: the time before
the first unit is done (starting processes, loading a codec) is not counted, and three more units in three seconds must
have followed. The price is a job of few large units that shows no time left for a while.
"""

from __future__ import annotations

import math
import sys
import time
from threading import Lock
from typing import TextIO

from titan_speech.utils.printable import message, one_line
from titan_speech.utils.text_table import amount

FIRST_SEC = 2.0
TERMINAL_SEC, LOG_SEC = 0.5, 30.0
MIN_SEC, MIN_UPDATES = 3.0, 3
"""Before these have passed since the first unit was done, no time left is estimated."""
WINDOW_SEC, WINDOW_SHARE = 10.0, 0.3
"""The rate is that of about the last ten seconds, or of the last 30 % of a longer job."""


class RateEstimate:
    """The smoothed rate of an amount that grows towards a total, and the time left."""

    def __init__(self, total: float) -> None:
        self._total, self._done = total, 0.0
        self._first_sec: float | None = None
        self._last_sec = 0.0
        self._amount = self._time_sec = 0.0
        """What was done in a recent time; the older, the less it counts."""
        self._num_updates = 0

    def update(self, done: float, now_sec: float | None = None) -> None:
        """Set what is done in total; the first amount above 0 is where the estimate begins.

        Args:
            done: of the total; less than before is ignored, since estimates of what is done may fall.
            now_sec: of a monotonic clock; None: now.
        """
        now_sec = time.monotonic() if now_sec is None else now_sec
        if self._first_sec is None:
            if done > 0:
                self._first_sec = self._last_sec = now_sec
                self._done = done
            return
        new = max(done - self._done, 0.0)
        window_sec = max(WINDOW_SEC, WINDOW_SHARE * (now_sec - self._first_sec))
        keep = math.exp(-(now_sec - self._last_sec) / window_sec)
        self._amount = self._amount * keep + new
        self._time_sec = self._time_sec * keep + now_sec - self._last_sec
        self._num_updates += new > 0
        self._done, self._last_sec = self._done + new, now_sec

    @property
    def left_sec(self) -> float | None:
        """Seconds until the total is done; None while too little was done to say."""
        if self._first_sec is None or self._num_updates < MIN_UPDATES or self._last_sec - self._first_sec < MIN_SEC:
            return None
        if self._amount <= 0:
            return None
        return max(self._total - self._done, 0.0) * self._time_sec / self._amount

    def left_text(self) -> str:
        """`, 1:02 left`, or nothing while it is not known."""
        left_sec = self.left_sec
        return "" if left_sec is None else f", {clock(left_sec)} left"


_open_line: ProgressLine | None = None
"""The one whose text is on the terminal without an end of line."""


def end_open_line() -> None:
    """Begin a new line of the terminal after a progress line, so that nothing is glued to it."""
    if _open_line is not None:
        _open_line.close()


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
        global _open_line
        line = one_line(line)
        self._next_show = time.monotonic() + (TERMINAL_SEC if self._on_terminal else LOG_SEC)
        if self._on_terminal:
            print(f"\r{line}\x1b[K", end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)
        if self._on_terminal:
            self._is_open, _open_line = True, self

    def close(self) -> None:
        """Keep the last line on a terminal."""
        global _open_line
        if self._is_open:
            print(file=self._stream)
        if _open_line is self:
            _open_line = None
        self._is_open = False


class Progress:
    """Progress of one job: `with Progress("verify", num_bytes, "B") as progress: progress.add(...)`."""

    def __init__(self, what: str, total: float, unit: str, stream: TextIO | None = None) -> None:
        """
        Args:
            what: name of the job.
            total: amount of the whole job.
            unit: of the amounts: `B` for bytes, or what is counted, as `samples`.
            stream: where lines are printed; stderr if None.
        """
        self._what, self._total, self._unit = what, total, unit
        self._line, self._done, self._lock = ProgressLine(stream), 0.0, Lock()
        self._rate = RateEstimate(total)

    def add(self, amount: float) -> None:
        """Count an amount as done."""
        with self._lock:
            self._set(self._done + amount)

    def update(self, done: float) -> None:
        """Set the amount that is done in total."""
        with self._lock:
            self._set(done)

    def _set(self, done: float) -> None:
        self._done = done
        self._rate.update(done)
        if self._line.is_due:
            self._line.show(self._text(self._line.elapsed_sec))

    def _text(self, elapsed_sec: float) -> str:
        share = self._done / self._total if self._total else 1.0
        done = amount(self._done, "B" if self._unit == "B" else "")
        total, rate = amount(self._total, self._unit), amount(self._done / elapsed_sec, self._unit)
        return f"{self._what}: {share:.0%}, {done} of {total}, {rate}/s{self._rate.left_text()}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()


def clock(seconds: float) -> str:
    """A duration as 1:02:03, or 2:03 below an hour; from four days on as 5 d 3 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 96:
        return f"{hours // 24:,} d {hours % 24} h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_to_stderr(line: str) -> None:
    """Print one message of a job; names in it come from outside."""
    end_open_line()
    print(message(line), file=sys.stderr, flush=True)
