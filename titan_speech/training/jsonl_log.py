"""metrics.jsonl: one JSON object per log step, written at once.

In: metrics of a log step. Out: a line in the run folder that survives a crash at any later instant. A resumed run
appends, beginning with an `event` line that says what it starts from; of two lines with the same step, the later one
is valid. A line is written completely or not at all. A full disk, as it may be while a checkpoint is written, loses no
line and does not end the run: lines that could not be written wait in memory for the next one. That costs one warning,
and one more if the disk is still full at the end.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchtitan.tools.logging import logger

from titan_speech.utils.printable import escape_controls
from titan_speech.utils.text_table import counted

MAX_WAITING_LINES = 10_000


class JsonlLogger:
    """Appends metrics to `path`. Values that are not finite are written as null, so that each line is valid JSON."""

    def __init__(self, path: Path, *, warns: bool = True) -> None:
        """
        Args:
            path: of the file.
            warns: false for a second logger of one run, where the first has said what is wrong.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, path.open("a+b", buffering=0)
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING_LINES)
        self._warns, self._has_warned = warns, False
        end = os.lseek(self._file.fileno(), 0, os.SEEK_END)
        if end and os.pread(self._file.fileno(), 1, end - 1) != b"\n":
            self._waiting.append(b"\n")  # ends a line that a crash cut off

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self._write({"step": step, **metrics})

    def event(self, name: str, **fields: Any) -> None:
        """Write a line that is not a log step, such as the start of the run."""
        self._write({"event": name, **fields})

    def is_new(self, name: str, **fields: Any) -> bool:
        """Whether no event of this name with these fields is in the file."""
        wanted = {"event": name, **fields}.items()
        return not any(wanted <= event.items() for event in read_records(self._path, f'"event": "{name}"'))

    def close(self) -> None:
        """Try once more to write what waits; what is lost is said."""
        if self._has_warned and not self._flush() and self._warns:
            logger.warning(f"{self._path} could not be written to the end; lost: {counted(len(self._waiting), 'line')}")
        self._has_warned = False  # closing again says nothing
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self._waiting.append((escape_controls(json.dumps(finite, ensure_ascii=False)) + "\n").encode())
        self._flush()

    def _flush(self) -> bool:
        try:
            _append(self._file.fileno(), b"".join(self._waiting))
        except OSError as error:
            is_new, self._has_warned = not self._has_warned, True
            if is_new and self._warns:
                logger.warning(
                    f"{self._path} cannot be written: {error}. Its lines wait in memory, training continues."
                )
            return False
        self._waiting.clear()
        self._has_warned = False
        return True


def _append(file_number: int, data: bytes) -> None:
    """Append all of `data` or nothing."""
    end = os.lseek(file_number, 0, os.SEEK_END)
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(file_number, view) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file_number, end)
        raise


def read_records(metrics: Path, containing: str = "") -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl, none if there is no file. A line that a crash cut off or damaged is left out, so that
    it does not keep a run from being resumed.

    Args:
        metrics: the file.
        containing: only lines with this text are parsed.
    """
    if not metrics.is_file():
        return
    with metrics.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if containing in line and line.endswith("}\n"):
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


def read_steps(metrics: Path) -> dict[int, dict[str, float]]:
    """The records of metrics.jsonl by step; of two with one step, as after a rollback, the later counts."""
    return {one["step"]: one for one in read_records(metrics) if "step" in one and "event" not in one}


def read_flags(metrics: Path) -> list[str]:
    """What a run has flagged, a sentence each."""
    events = read_records(metrics, '"event": "flagged"')
    return [f"step {event['step']:,}, {event['what']}: {event['message']}" for event in events]
