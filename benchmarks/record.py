"""Measurements as values: the format of every JSON here, on a CPU, on GPUs and in a dry run.

In: values of repeats. Out: `Report`, written and read as JSON. A metric is given as its repeats, their median, and an
interval of the median from their order alone (binomial, at least 95 %), which no outlier moves; `spread` is half the
range of the middle half over the median; tolerances follow from it. All of these are computed again from the values
when a file is read. Ratios are of pairs that were run one after the other, since ratios are comparable between machines
and absolute values are not. `format` rises when a key is removed or changes its meaning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

from titan_speech.utils.files import write_atomically

FORMAT = 1
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """One quantity over the repeats."""

    name: str
    unit: str
    values: tuple[float, ...]
    median: float
    low: float
    high: float
    spread: float

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> Figure:
        low, high = interval(values)
        return cls(name, unit, tuple(values), median(values), low, high, spread(values))


@dataclass(frozen=True)
class Goal:
    """Target of a ratio or a metric."""

    bound: Literal["at least", "at most"]
    value: float

    def is_met(self, found: float) -> bool:
        return found >= self.value if self.bound == "at least" else found <= self.value

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"


@dataclass(frozen=True)
class Ratio:
    """One case over another, pair by pair."""

    name: str
    what: str
    values: tuple[float, ...]
    median: float
    low: float
    high: float
    spread: float
    better: Better
    goal: Goal | None
    is_met: bool | None
    """By the median; None without a goal."""

    @classmethod
    def of(
        cls, name: str, what: str, values: Sequence[float], goal: Goal | None = None, better: Better = "higher"
    ) -> Ratio:
        """A goal says which way is better."""
        low, high = interval(values)
        middle = median(values)
        if goal is not None:
            better = "higher" if goal.bound == "at least" else "lower"
        is_met = None if goal is None else goal.is_met(middle)
        return cls(name, what, tuple(values), middle, low, high, spread(values), better, goal, is_met)

    @property
    def verdict(self) -> str:
        """`met` or `MISSED`, with what the interval leaves open."""
        if self.goal is None:
            return "no goal"
        ends = {self.goal.is_met(self.low), self.goal.is_met(self.high)}
        word = "met" if self.is_met else f"MISSED by {abs(self.median / self.goal.value - 1):.1%}"
        return word if len(ends) == 1 else f"{word} (the interval holds the goal)"


@dataclass(frozen=True)
class Case:
    """One process or configuration, and its measurements."""

    name: str
    what: str
    config: Mapping[str, str | float | None]
    figures: tuple[Figure, ...] = ()
    not_measured: Mapping[str, str] = field(default_factory=dict)
    """Names of figures that have no value here, each with the reason."""

    def figure(self, name: str) -> Figure:
        return next(figure for figure in self.figures if figure.name == name)


@dataclass(frozen=True)
class Machine:
    """Where and with what a report was made; no name of a host."""

    device: str
    """cpu, or the GPU's name."""
    is_gpu: bool
    num_gpus: int
    cores: int
    num_threads: int
    load_before: float
    """Processes that wanted a core, mean of a minute; above 0 something else was running."""
    load_after: float
    versions: Mapping[str, str]
    git_revision: str


@dataclass(frozen=True)
class Report:
    """One suite, run once."""

    suite: str
    date: str
    seconds: float
    is_quick: bool
    is_dry_run: bool
    note: str
    """What a reader must know first, such as that no GPU was measured."""
    machine: Machine
    cases: tuple[Case, ...]
    ratios: tuple[Ratio, ...]
    format: int = FORMAT

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        write_atomically(path, json.dumps(rounded(asdict(self)), indent=1) + "\n")

    def ratio(self, name: str) -> Ratio:
        return next(ratio for ratio in self.ratios if ratio.name == name)


def read_report(path: Path) -> Report:
    """Raises ValueError for a file that is not a report, or of another format."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: found no report ({error!r}); expected a JSON of `python -m benchmarks.run`"
        ) from error
    if found != FORMAT:
        raise ValueError(f"{path}: found format {found}, expected {FORMAT}; run the suite again")
    cases = [{**one, "figures": tuple(_figure(found) for found in one["figures"])} for one in record["cases"]]
    return Report(
        **{
            **record,
            "machine": Machine(**record["machine"]),
            "cases": tuple(Case(**one) for one in cases),
            "ratios": tuple(_ratio(one) for one in record["ratios"]),
        }
    )


def _figure(record: Mapping[str, Any]) -> Figure:
    return Figure.of(record["name"], record["unit"], record["values"])


def _ratio(record: Mapping[str, Any]) -> Ratio:
    goal = None if record["goal"] is None else Goal(**record["goal"])
    return Ratio.of(record["name"], record["what"], record["values"], goal, record["better"])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median, at 95 % or more; with fewer than six values all of them, which is less."""
    ordered, count = sorted(values), len(values)
    skipped, beyond = 0, 1 + count  # of 2^count ways to lie about the median, those that it would miss at one end
    while beyond <= 0.025 * 2**count:
        skipped += 1
        beyond += math.comb(count, skipped + 1)
    return ordered[skipped], ordered[count - 1 - skipped]


def spread(values: Sequence[float]) -> float:
    """Half the range of the middle half of the values, over their median; 0 of a single one."""
    if len(values) < 2 or not median(values):
        return 0.0
    first, _, third = quantiles(values, n=4, method="inclusive")
    return abs((third - first) / 2 / median(values))


def rounded(value: Any) -> Any:
    """Six digits: the seventh is never the same twice."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value
