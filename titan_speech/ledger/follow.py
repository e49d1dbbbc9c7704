"""The ledger of running ranks, followed from outside: seconds by class of the current process of each rank.

In: the file of a rank, which it appends to. Out: sums that are up to date at each call; each call reads what is new.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from titan_speech.ledger.records import MEASURED


class RankFollower:
    """One rank's file."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._ended = dict.fromkeys(MEASURED, 0.0)
        """Seconds of the spans that have ended."""
        self.seconds = dict(self._ended)
        self.last_step, self.world_size, self.until_sec = 0, 0, 0.0

    def update(self) -> bool:
        """Read what is new; False if there is no ledger."""
        try:
            with self._path.open("rb") as file:
                file.seek(min(self._at, os.fstat(file.fileno()).st_size))
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return False
        self.seconds = dict(self._ended)
        for number, line in enumerate(lines):
            is_last = number == len(lines) - 1
            try:
                record = json.loads(line)
                self._take(record, is_last=is_last)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                pass  # half rewritten: the next call sees it whole
            if not is_last:
                self._at += len(line)
        return True

    def _take(self, record: dict[str, Any], *, is_last: bool) -> None:
        if record["kind"] == "begin":
            self._ended = dict.fromkeys(MEASURED, 0.0)
            self.seconds = dict(self._ended)
            self.world_size, self.last_step = int(record["world_size"]), int(record["from_step"])
            self.until_sec = float(record["at"])
            return
        self.until_sec = float(record["until"])
        if record["kind"] != "span":
            return
        self.last_step = max(self.last_step, int(record["last_step"]))
        for name, value in record["sec"].items():
            if name in self.seconds:
                self.seconds[name] += float(value)
        if not is_last:
            self._ended = dict(self.seconds)
