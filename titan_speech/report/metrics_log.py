"""metrics.jsonl as columns: steps and values of each metric, and the events between steps.

In: the file that a run appends to (training/jsonl_log.py). Out: `MetricsLog`. `update` reads what was appended since
the last call, so a page that is served while a run trains parses each line once. Records that a resumed run has
replaced are dropped: a `start` at step N invalidates what was logged after N.

The file is not trusted: a line that is too long or no JSON, a step that is no whole number and a value that is no
finite number are left out and counted. `curve_of` makes a column what a screen can show: 400 points over equal ranges
of the horizontal axis, each with mean, minimum and maximum, so that no spike is lost. 100,000 records of 62 numbers
(223 MB) take 4.8 s of one core and 98 MB.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.utils.json_text import is_number, parse_json

START, END, FLAGGED = "start", "end", "flagged"
MAX_LINE_BYTES = 1 << 20
MAX_STEP = 1 << 48
MAX_METRICS = 5_000
MAX_NAME_CHARS = 200
MAX_EVENTS = 100_000


@dataclass
class Column:
    """The values of one metric; steps ascend."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: float) -> None:
        """Of two values at one step the later one counts."""
        if self.steps and self.steps[-1] >= step:
            self.cut_after(step - 1)
        self.steps.append(step)
        self.values.append(value)

    def cut_after(self, step: int) -> None:
        keep = bisect_right(self.steps, step)
        del self.steps[keep:]
        del self.values[keep:]

    @property
    def last(self) -> float:
        return self.values[-1]

    def at(self, step: int) -> float | None:
        """The last value up to a step."""
        index = bisect_right(self.steps, step)
        return self.values[index - 1] if index else None


@dataclass(frozen=True)
class LogEvent:
    """A line that is not a log step."""

    name: str
    step: int
    texts: dict[str, str]
    """Its fields that are text."""
    numbers: dict[str, float]


@dataclass(frozen=True)
class StartOfRun:
    """One start of the run."""

    step: int
    start_from: str
    world_size: int | None
    repeated_steps: int
    """Steps that an earlier start had logged, and this one trains again."""


class MetricsLog:
    """What metrics.jsonl says so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: dict[str, Column] = {}
        self.events: list[LogEvent] = []
        self.starts: list[StartOfRun] = []
        self.last_step = 0
        """The last step with a record."""
        self.num_records = self.num_damaged = 0
        self._offset = 0

    def update(self) -> bool:
        """Read what was appended.

        Returns:
            Whether there was anything new.

        Raises:
            OSError: the file exists but cannot be read.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return False
        before = self._offset
        with file:
            file.seek(self._offset)
            while line := file.readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n"):
                    if len(line) < MAX_LINE_BYTES:
                        break  # is being written
                    self.num_damaged += 1
                    while (line := file.readline(MAX_LINE_BYTES)) and not line.endswith(b"\n"):
                        pass
                    self._offset = file.tell()
                    continue
                self._offset += len(line)
                if len(line) > 1:
                    self._add(line)
        return self._offset != before

    def column(self, name: str) -> Column:
        """The values of a metric; empty if it was never logged."""
        return self.columns.get(name) or Column()

    def names(self, prefix: str) -> list[str]:
        """What follows `prefix` in the names of metrics, sorted."""
        return sorted(name.removeprefix(prefix) for name in self.columns if name.startswith(prefix))

    def _add(self, line: bytes) -> None:
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        step = record.get("step") if isinstance(record, dict) else None
        if not isinstance(record, dict) or type(step) is not int or not 0 <= step <= MAX_STEP:
            self.num_damaged += 1
            return
        del record["step"]
        name = record.pop("event", None)
        if name is None:
            self.num_records += 1
            self.last_step = step
            self._add_values(step, record)
        elif isinstance(name, str):
            self._add_event(name[:MAX_NAME_CHARS], step, record)
        else:
            self.num_damaged += 1

    def _add_values(self, step: int, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if type(value) is not float and type(value) is not int:
                continue
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) >= MAX_METRICS or len(name) > MAX_NAME_CHARS:
                    continue
                column = self.columns[name] = Column()
            if is_number(value):
                column.add(step, value)

    def _add_event(self, name: str, step: int, record: dict[str, Any]) -> None:
        numbers = {key: float(value) for key, value in record.items() if is_number(value)}
        texts = {key: value for key, value in record.items() if isinstance(value, str)}
        if name == START:
            world_size = numbers.get("world_size")
            repeated = max(0, self.last_step - step)
            self.starts.append(
                StartOfRun(step, texts.get("start_from", ""), int(world_size) if world_size else None, repeated)
            )
            self._cut_after(step)
        else:
            self._add_values(step, numbers)
        if len(self.events) < MAX_EVENTS:
            self.events.append(LogEvent(name, step, texts, numbers))

    def _cut_after(self, step: int) -> None:
        """Forget what a start at `step` will train again."""
        for column in self.columns.values():
            column.cut_after(step)
        self.events = [event for event in self.events if event.step <= step or event.name in (START, END, FLAGGED)]
        self.last_step = min(self.last_step, step)


MAX_POINTS = 400


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of a metric, P of them."""

    x_P: NDArray[np.float64]
    mean_P: NDArray[np.float64]
    low_P: NDArray[np.float64]
    high_P: NDArray[np.float64]

    @property
    def has_band(self) -> bool:
        """Whether some point stands for different values."""
        return bool((self.high_P > self.low_P).any())


def curve_of(column: Column, x_per_step: float = 1.0, max_points: int = MAX_POINTS) -> Curve:
    """The curve of a column.

    Args:
        column: of a metric.
        x_per_step: what a step is on the horizontal axis, such as its tokens.
        max_points: of the curve.
    """
    x_N = np.frombuffer(column.steps, np.int64).astype(np.float64) * x_per_step if column.steps else np.empty(0)
    value_N = np.frombuffer(column.values, np.float64).copy() if column.values else np.empty(0)
    if len(x_N) <= max_points:
        return Curve(x_N, value_N, value_N, value_N)
    edges = np.linspace(x_N[0], x_N[-1], max_points + 1)[1:-1]
    starts_P = np.unique(np.concatenate(([0], np.searchsorted(x_N, edges, side="right"))))
    starts_P = starts_P[starts_P < len(x_N)]
    size_P = np.diff(np.append(starts_P, len(x_N)))
    return Curve(
        np.add.reduceat(x_N, starts_P) / size_P,
        np.add.reduceat(value_N, starts_P) / size_P,
        np.minimum.reduceat(value_N, starts_P),
        np.maximum.reduceat(value_N, starts_P),
    )
