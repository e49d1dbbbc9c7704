"""Curves as a chart: scales, ticks, paths of an SVG, and the values that a pointer reads from it.

In: lines of a chart in the units of their metric. Out: `Drawing`, which templates/blocks.html.j2 writes as inline SVG,
with the same values as JSON next to it for page.js. The drawing is complete without the script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from titan_speech.report.metrics_log import Curve
from titan_speech.utils.text_table import amount

Scale: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

NUM_COLORS = 8
"""Colors of lines in page.css; the ninth line begins again, dashed."""

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 20
LEAST_OF_LOG = 1e-30
"""On an axis of logarithms; what is below it is drawn there."""
PADDING = 0.06
"""Of the range of values, above and below."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    curve: Curve
    color: int = 0
    """Which color of page.css; lines of one run have one in every chart."""
    is_dashed: bool = False
    is_reference: bool = False
    """A line to compare with, drawn in grey."""
    note: str = ""
    """Behind the label."""


@dataclass(frozen=True)
class Band:
    """An area that values should stay in."""

    label: str
    x_P: NDArray[np.float64]
    low_P: NDArray[np.float64]
    high_P: NDArray[np.float64]


@dataclass(frozen=True)
class ChartMark:
    """A vertical line, such as a restart."""

    x: float
    label: str


@dataclass(frozen=True)
class Chart:
    """What a chart shows."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    x_name: str = "step"
    is_share: bool = False
    """Values of 0 to 1 that are printed as percent."""
    from_zero: bool = False
    is_log: bool = False
    marks: tuple[ChartMark, ...] = ()
    bands: tuple[Band, ...] = ()
    note: str = ""
    size: str = "normal"
    """`wide`, `normal` or `small`."""

    @cached_property
    def drawing(self) -> Drawing:
        return draw(self)

    @property
    def has_points(self) -> bool:
        return any(len(line.curve.x_P) for line in self.lines)


@dataclass(frozen=True)
class Path:
    """A line and its band in the units of the view box."""

    line: Line
    color: str
    """Class of page.css."""
    points: str
    band: str
    dot: tuple[float, float] | None
    """A line of one point is a dot."""


@dataclass(frozen=True)
class Drawing:
    """A chart in the units of its view box."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    paths: tuple[Path, ...]
    bands: tuple[tuple[str, str], ...]
    """Label and points of each band."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str], ...]
    label: str
    """The chart in words."""
    data: dict[str, object]
    """For page.js."""


SIZES = {"wide": (1200, 260), "normal": (420, 200), "small": (230, 110)}


def color_class(line: Line) -> str:
    """The class that gives a line its color."""
    return "reference" if line.is_reference else f"c{line.color % NUM_COLORS}"


def value_text(value: float, *, is_share: bool = False, unit: str = "") -> str:
    """A value with its unit, in four significant digits."""
    if is_share:
        return f"{100 * value:.3g} %"
    if value == 0:
        text = "0"
    elif abs(value) >= 10_000:
        text = amount(abs(value))
        text = f"-{text}" if value < 0 else text
    elif abs(value) < 1e-3:
        text = f"{value:.2e}"
    else:
        text = f"{value:.4g}"
    return f"{text} {unit}".rstrip()


def draw(chart: Chart) -> Drawing:
    """Scale a chart to its view box."""
    width, height = SIZES[chart.size]
    box = (float(LEFT), float(width - RIGHT), float(TOP), float(height - BOTTOM))
    left, right, top, bottom = box
    low_x, high_x = _extent([line.curve.x_P for line in chart.lines])
    low_y, high_y = _value_range(chart)

    def to_x(x_P: NDArray[np.float64]) -> NDArray[np.float64]:
        return left + (x_P - low_x) / ((high_x - low_x) or 1.0) * (right - left)

    def to_y(value_P: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled_P = np.log10(np.maximum(value_P, LEAST_OF_LOG)) if chart.is_log else value_P
        return np.clip(bottom - (scaled_P - low_y) / ((high_y - low_y) or 1.0) * (bottom - top), -9999, 9999)

    paths = tuple(_path(line, to_x, to_y) for line in chart.lines if len(line.curve.x_P))
    bands = tuple(
        (band.label, _area(to_x(np.clip(band.x_P, low_x, high_x)), to_y(band.low_P), to_y(band.high_P)))
        for band in chart.bands
    )
    steps = _nice_ticks(low_x, high_x, max(3, width // 110))
    x_ticks = zip(to_x(np.array(steps)).tolist(), _tick_texts(steps), strict=True)
    values = _log_ticks(low_y, high_y) if chart.is_log else _nice_ticks(low_y, high_y, max(2, height // 40))
    y_ticks = zip(to_y(np.array(values)).tolist(), _tick_texts(values, chart.is_share), strict=True)
    marks = tuple((float(to_x(np.array([mark.x]))[0]), mark.label) for mark in chart.marks if low_x < mark.x <= high_x)
    data = {
        "x": chart.x_name,
        "unit": "" if chart.is_share else chart.unit,
        "share": chart.is_share,
        "box": [left, right, width],
        "range": [low_x, high_x],
        "lines": [
            {
                "label": line.label,
                "color": color_class(line),
                "x": [_short(x) for x in line.curve.x_P],
                "y": [_short(value) for value in line.curve.mean_P],
            }
            for line in chart.lines
            if len(line.curve.x_P)
        ],
    }
    return Drawing(width, height, *box, paths, bands, tuple(x_ticks), tuple(y_ticks), marks, _in_words(chart), data)


def _path(line: Line, to_x: Scale, to_y: Scale) -> Path:
    curve = line.curve
    x_P, y_P = to_x(curve.x_P), to_y(curve.mean_P)
    band = _area(x_P, to_y(curve.low_P), to_y(curve.high_P)) if curve.has_band and not line.is_reference else ""
    dot = (float(x_P[0]), float(y_P[0])) if len(x_P) == 1 else None
    return Path(line, color_class(line), _points(x_P, y_P), band, dot)


def _points(x_P: NDArray[np.float64], y_P: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(x_P.tolist(), y_P.tolist(), strict=True))


def _area(x_P: NDArray[np.float64], low_P: NDArray[np.float64], high_P: NDArray[np.float64]) -> str:
    return f"{_points(x_P, high_P)} {_points(x_P[::-1], low_P[::-1])}"


def _extent(arrays: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    filled = [array_P for array_P in arrays if len(array_P)]
    if not filled:
        return 0.0, 1.0
    low, high = float(min(a.min() for a in filled)), float(max(a.max() for a in filled))
    return (low, high) if high > low else (low, low + 1.0)


def _value_range(chart: Chart) -> tuple[float, float]:
    """Lowest and highest value of the axis; their logarithms if the axis is one."""
    arrays = [array for line in chart.lines for array in (line.curve.low_P, line.curve.high_P)]
    if chart.is_log:
        positive = [array_P[array_P > LEAST_OF_LOG] for array_P in arrays]
        low, high = _extent([np.log10(array_P) for array_P in positive])
        return low - PADDING * (high - low), high + PADDING * (high - low)
    filled = [array_P for array_P in arrays if len(array_P)]
    low, high = (float(min(a.min() for a in filled)), float(max(a.max() for a in filled))) if filled else (0.0, 1.0)
    if chart.from_zero or chart.is_share:
        low = min(low, 0.0)
    if high <= low:
        spread = abs(high) * 0.1 or 1.0
        return (low if low == 0 else low - spread), high + spread
    margin = PADDING * (high - low)
    return (low if low == 0 else low - margin), high + margin


def _nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within the range."""
    rough = (high - low) / max(count, 1)
    if not rough > 1e-300:  # the power of ten below it is 0
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first < 1 and count < 16:  # one tick is no scale
        return _nice_ticks(low, high, 2 * count)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in the range; within two decades also their multiples by 2 and 5, or those of a linear scale."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2 else (1,)
    ticks = [f * 10.0**p for p in powers for f in factors if low <= math.log10(f * 10.0**p) <= high]
    return ticks if len(ticks) > 1 else _nice_ticks(10.0**low, 10.0**high, 3)


def _tick_texts(ticks: Sequence[float], is_share: bool = False) -> list[str]:
    """In four digits, or as many as tell the ticks apart."""
    texts = list[str]()
    for digits in (4, 5, 6):
        texts = [_tick_text(value, is_share, digits) for value in ticks]
        if len({*texts}) == len(texts):
            break
    return texts


def _tick_text(value: float, is_share: bool, digits: int) -> str:
    if is_share:
        return f"{100 * value:.{digits - 1}g} %"
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return ("-" if value < 0 else "") + amount(abs(value))
    return f"{value:.0e}".replace("e-0", "e-") if abs(value) < 1e-3 else f"{value:.{digits}g}"


def _short(value: float) -> float:
    return float(f"{value:.5g}") if abs(value) < 1e5 else round(float(value), 1)


def _in_words(chart: Chart) -> str:
    ends = [
        f"{line.label}: {value_text(line.curve.mean_P[0], is_share=chart.is_share)} to "
        f"{value_text(line.curve.mean_P[-1], is_share=chart.is_share)}"
        for line in chart.lines
        if len(line.curve.x_P)
    ]
    return f"{chart.title}, {chart.unit}. " + "; ".join(ends[:8])


def as_json(drawing: Drawing) -> str:
    """The data of a drawing as JSON that may stand in a script element."""
    text = json.dumps(drawing.data, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
