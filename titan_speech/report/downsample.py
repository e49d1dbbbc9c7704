"""A long column of a metric as a curve that a screen can show.

In: steps and values. Out: `Curve`: at most `MAX_POINTS` points over equal ranges of the horizontal axis, each with the
mean of its range and, where a range has several values, their minimum and maximum, so that no spike is lost. A column
with fewer values is kept as it is. 100,000 values take 0.2 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.report.metrics_log import Column

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
