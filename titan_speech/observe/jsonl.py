"""metrics.jsonl: one JSON object a log step, flushed as it is written.

In: figures of a log step. Out: a line in the run folder that outlives a crash at any later instant. A resumed run
appends, opening with an `event` line that says where it starts from; of two lines with one step, the later one counts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torchtitan.components.metrics import BaseLogger


class JsonlLogger(BaseLogger):
    """Appends figures to `path`; values that are not finite are written as null, so that each line is valid JSON."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

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
        self._file.write(json.dumps(finite, ensure_ascii=False) + "\n")
        self._file.flush()
