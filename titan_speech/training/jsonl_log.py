"""metrics.jsonl: one JSON object a log step, in the file as soon as it is told.

In: figures of a log step. Out: a line in the run folder that outlives a crash at any later instant. A resumed run
appends, opening with an `event` line that says where it starts from; of two lines with one step, the later one counts.
Lines are there as a whole or not at all. A disk that is full, as it may be while a checkpoint is written, costs no line
and does not end the run: what could not be written waits in memory for the next line.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import deque
from pathlib import Path
from typing import Any

from torchtitan.components.metrics import BaseLogger
from torchtitan.tools.logging import logger

MOST_WAITING_LINES = 10_000


class JsonlLogger(BaseLogger):
    """Appends figures to `path`; values that are not finite are written as null, so that each line is valid JSON."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, path.open("a+b", buffering=0)
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING_LINES)
        if not _ends_with_a_line(self._file.fileno()):
            self._waiting.append(b"\n")  # after a line that a crash cut

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self._write({"step": step, **metrics})

    def event(self, name: str, **fields: Any) -> None:
        """A line that is no log step, such as the start of the run."""
        self._write({"event": name, **fields})

    def close(self) -> None:
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        was_waiting = len(self._waiting) > 1
        self._waiting.append((json.dumps(finite, ensure_ascii=False) + "\n").encode())
        try:
            _append(self._file.fileno(), b"".join(self._waiting))
            self._waiting.clear()
        except OSError as error:
            if not was_waiting:
                logger.warning(f"{self._path} cannot be written: {error}. Its lines wait in memory; training goes on.")


def _append(file_number: int, data: bytes) -> None:
    """All of it or nothing."""
    end = os.lseek(file_number, 0, os.SEEK_END)
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(file_number, view) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file_number, end)
        raise


def _ends_with_a_line(file_number: int) -> bool:
    """Also of a file that is empty."""
    end = os.lseek(file_number, 0, os.SEEK_END)
    return not end or os.pread(file_number, 1, end - 1) == b"\n"
