"""Reference curves: what a run of a recipe is expected to look like, kept as JSON, and where another run leaves them.

In: runs of one recipe, or the file of a reference; the name of one that comes with the package is enough. Out:
`RecipeReference`: for each metric steps, mean, and a band from the lowest to the highest run, widened by `TOLERANCE`,
since another machine adds up in another order. A run leaves the band where two of its records in a row are outside: one
alone is noise.

    {"format": 1, "name": "demo", "about": "...", "curves": {"loss": {"steps": [1, ...], "mean": [...], ...}}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from titan_speech.errors import DataError
from titan_speech.report.metrics_log import Column
from titan_speech.report.run import Run
from titan_speech.utils.json_text import parse_json, read_small_file

REFERENCE_FORMAT = 1
TOLERANCE = 0.02
"""Of the mean, added to both sides of the band."""
MAX_REFERENCE_BYTES = 4 << 20
MAX_POINTS = 10_000
WHOLE_NAMES, NAME_PREFIXES = ("loss", "lr"), ("loss/", "validation/")
"""Metrics of a reference, by name and by the beginning of their names, without those by language."""
IN_A_ROW = 2


@dataclass(frozen=True)
class ReferenceCurve:
    """A metric of a reference."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class RecipeReference:
    """The curves of a recipe."""

    name: str
    about: str
    """What was run, on what."""
    curves: Mapping[str, ReferenceCurve]


@dataclass(frozen=True)
class Departure:
    """How a metric of a run compares with its band."""

    metric: str
    num_compared: int
    num_outside: int
    left_at: int | None
    """The first of two steps in a row outside the band; None: it never left."""
    value: float
    low: float
    high: float
    """Value and band there; of the last step if it never left."""


def reference_of(runs: Sequence[Run], name: str, about: str) -> RecipeReference:
    """The reference of these runs.

    Raises:
        DataError: they have no steps in common.
    """
    names = set.intersection(*(set(run.log.columns) for run in runs))
    curves = {}
    for metric in sorted(name for name in names if name in WHOLE_NAMES or name.startswith(NAME_PREFIXES)):
        if "/language/" in metric or metric.endswith("/sec"):
            continue
        columns = [run.log.column(metric) for run in runs]
        steps = sorted(set.intersection(*(set(column.steps) for column in columns)))
        if steps:
            value_RP = np.array([[_at(column, step) for step in steps] for column in columns])
            mean_P = value_RP.mean(axis=0)
            margin_P = TOLERANCE * np.abs(mean_P)
            rows = mean_P, value_RP.min(0) - margin_P, value_RP.max(0) + margin_P
            curves[metric] = ReferenceCurve(tuple(steps), *(tuple(float(f"{x:.6g}") for x in row_P) for row_P in rows))
    if not curves:
        raise DataError("the runs have no step in common: a reference needs runs of one recipe, from the first step on")
    return RecipeReference(name, about, curves)


def _at(column: Column, step: int) -> float:
    value = column.at(step)
    assert value is not None, f"step {step} was chosen because it is there"
    return value


def to_json(reference: RecipeReference) -> str:
    """The file of a reference; a curve is a few lines."""
    content = {"format": REFERENCE_FORMAT, "name": reference.name, "about": reference.about}
    curves = {name: asdict(curve) for name, curve in reference.curves.items()}
    text = json.dumps({**content, "curves": {}}, indent=1, ensure_ascii=False)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(curve)}" for name, curve in curves.items())
    return text.replace('"curves": {}', f'"curves": {{\n{lines}\n }}') + "\n"


def names() -> list[str]:
    """The references that come with the package."""
    folder = files("titan_speech.report") / "references"
    return sorted(path.name.removesuffix(".json") for path in folder.iterdir() if path.name.endswith(".json"))


def open_reference(name_or_path: str) -> RecipeReference:
    """A reference by its name in the package, or its file.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = Path(name_or_path)
    if name_or_path in names():
        text = (files("titan_speech.report") / "references" / f"{name_or_path}.json").read_text(encoding="utf-8")
        return _parsed(text.encode(), name_or_path)
    try:
        return _parsed(read_small_file(path, MAX_REFERENCE_BYTES), name_or_path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"--against {name_or_path}: {error}; expected one of {', '.join(names())}, or a file that titan-speech "
            "report --save-reference wrote"
        ) from error


def _parsed(content: bytes, where: str) -> RecipeReference:
    try:
        record = parse_json(content)
        if record["format"] != REFERENCE_FORMAT:
            raise ValueError(f"format {record['format']!r}, expected {REFERENCE_FORMAT}")
        curves = {str(name): _curve(curve) for name, curve in record["curves"].items()}
        return RecipeReference(str(record["name"]), str(record["about"]), curves)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{where} is no reference ({error!r}); titan-speech report --save-reference writes one"
        ) from error


def _curve(record: dict[str, Any]) -> ReferenceCurve:
    steps = tuple(int(step) for step in record["steps"])
    mean, low, high = (tuple(float(value) for value in record[key]) for key in ("mean", "low", "high"))
    is_sound = 0 < len(steps) <= MAX_POINTS and list(steps) == sorted(set(steps))
    if not is_sound or not len(steps) == len(mean) == len(low) == len(high):
        raise ValueError("steps that do not ascend, or curves of different lengths")
    if not all(map(math.isfinite, (*mean, *low, *high))):
        raise ValueError("a value that is not finite")
    return ReferenceCurve(steps, mean, low, high)


def compare(run: Run, reference: RecipeReference) -> list[Departure]:
    """Each metric that the run and the reference have in common, at the steps that both have."""
    return [
        found
        for metric, curve in reference.curves.items()
        if (found := _departure(metric, run.log.column(metric), curve)) is not None
    ]


def _departure(metric: str, column: Column, curve: ReferenceCurve) -> Departure | None:
    values = dict(zip(column.steps, column.values, strict=True))
    shared = [i for i, step in enumerate(curve.steps) if step in values]
    if not shared:
        return None
    is_out = [not curve.low[i] <= values[curve.steps[i]] <= curve.high[i] for i in shared]
    left = next((n for n in range(len(shared)) if all(is_out[n : n + IN_A_ROW]) and n + IN_A_ROW <= len(shared)), None)
    at = shared[-1 if left is None else left]
    step = curve.steps[at]
    return Departure(
        metric,
        len(shared),
        sum(is_out),
        None if left is None else step,
        values[step],
        curve.low[at],
        curve.high[at],
    )
