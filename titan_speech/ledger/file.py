"""The ledger of this process: its clock, and its records on disk.

In: a run folder, and which start of the run this is. Out: RUN/ledger/rank-N.jsonl in the format of records.py. A
thread rewrites the last line five times a second, so it says what the process did up to a fifth of a second before a
kill; half a minute, or a save, ends the line. A file that cannot be written costs one warning.

`ledger` is the one of this process, as a process has one main thread. Until `open` it only keeps time.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path

from titan_speech.ledger.clock import UNCLASSIFIED, WAKE_SEC, Clock, process_age_sec
from titan_speech.ledger.records import ledger_file

SPAN_SEC = 30.0
MAX_WAITING_BYTES = 1 << 20

logger = logging.getLogger(__name__)


class Ledger(Clock):
    """A clock that writes."""

    def __init__(self) -> None:
        super().__init__(process_age_sec=0)
        self._file: LastLine | None = None
        self._ended = threading.Event()
        self._written: dict[str, float] = {}
        """Seconds by class when the current span began."""
        self._span_began_sec = 0.0
        self._first_step = self._last_step = 0
        self._start = 0

    def open(self, run_folder: Path, *, rank: int, start: int, world_size: int, from_step: int) -> None:
        """Begin to write.

        Args:
            run_folder: of the run.
            rank: of this process.
            start: number of the start of the run, the same on all ranks (`next_start`).
            world_size: of this start.
            from_step: steps done before.
        """
        age_sec = process_age_sec()  # not of the process that imported this module, if it was forked since
        super().__init__(process_age_sec=age_sec)
        self._file, self._start = LastLine(ledger_file(run_folder, rank)), start
        self._first_step, self._last_step = from_step + 1, from_step
        begin = {
            "rank": rank,
            "start": start,
            "world_size": world_size,
            "node": os.uname().nodename,
            "pid": os.getpid(),
        }
        self._file.end({"kind": "begin", **begin, "from_step": from_step, "at": round(time.time() - age_sec, 3)})
        self._written, self._span_began_sec = dict.fromkeys(self.seconds(), 0.0), time.monotonic()
        threading.Thread(target=self._run, name="ledger", daemon=True).start()

    def step_ended(self, step: int) -> None:
        """Call it after each step, before its save."""
        with self._lock:
            self._last_step = step
            if time.monotonic() - self._span_began_sec > SPAN_SEC:
                self.end_span()

    def end_span(self) -> None:
        """Begin a new span: what comes before a save and what comes after it can be lost apart."""
        with self._lock:
            if self._file is None:
                return
            seconds = self.seconds()
            self._file.end(self._span(seconds))
            self._written, self._span_began_sec = seconds, time.monotonic()
            self._first_step = self._last_step + 1

    def close(self, how: str) -> None:
        """End the account of this process: complete, stopped or failed."""
        self._ended.set()
        with self._lock:
            if self._file is None:
                return
            self.end_span()
            self._file.end({"kind": "end", "start": self._start, "until": round(time.time(), 3), "how": how})
            self._file = None

    def _run(self) -> None:
        while not self._ended.wait(WAKE_SEC):
            with self._lock:
                self.wake()
                if self._file is not None:
                    self._file.rewrite(self._span(self.seconds()))

    def _span(self, seconds: dict[str, float]) -> dict[str, object]:
        """The record of the current span."""
        spent = {name: round(value - self._written[name], 4) for name, value in seconds.items()}
        return {
            "kind": "span",
            "start": self._start,
            "first_step": self._first_step,
            "last_step": self._last_step,
            "until": round(time.time(), 3),
            "sec": {name: value for name, value in spent.items() if value and name != UNCLASSIFIED},
        }


class LastLine:
    """A file of JSON lines whose last line is rewritten in place until it ends."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor, self._has_warned = path, -1, False
        self._line_at = 0
        self._waiting = b""
        """Lines that have ended and could not be written yet."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            self._line_at = os.lseek(self._descriptor, 0, os.SEEK_END)
            if self._line_at and os.pread(self._descriptor, 1, self._line_at - 1) != b"\n":
                self._waiting = b"\n"  # ends a line that a kill cut off
        except OSError as error:
            self._warn(error)

    def rewrite(self, record: dict[str, object]) -> None:
        """Write the record over the last line."""
        self._write(self._waiting + (json.dumps(record) + "\n").encode())

    def end(self, record: dict[str, object]) -> None:
        """Write the record over the last line; the next one follows it."""
        self._waiting += (json.dumps(record) + "\n").encode()
        if self._write(self._waiting):
            self._line_at += len(self._waiting)
            self._waiting = b""
        self._waiting = self._waiting[-MAX_WAITING_BYTES:]

    def _write(self, data: bytes) -> bool:
        if self._descriptor < 0:
            return False
        try:
            written = os.pwrite(self._descriptor, data, self._line_at)
            os.ftruncate(self._descriptor, self._line_at + written)
        except OSError as error:
            self._warn(error)
            return False
        return written == len(data)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(f"{self._path} cannot be written: {error}. Training continues without its ledger of time.")


def next_start(run_folder: Path) -> int:
    """The number of the start that begins now; for rank 0 to decide, which every start has."""
    try:
        with ledger_file(run_folder, 0).open("rb") as lines:
            return sum(b'"kind": "begin"' in line for line in lines)
    except OSError:
        return 0


ledger = Ledger()
