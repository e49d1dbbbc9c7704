"""Counting values into bins.

In: values. Out: `Histogram`, whose bins are equal in width and whose ends hold what lies beyond, so that one segment
of an hour does not squeeze all others into one bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 32


@dataclass(frozen=True)
class Histogram:
    """Bin i holds start + i * width <= value < start + (i + 1) * width; the last one also all above."""

    start: float
    width: float
    counts: tuple[int, ...]
    num_values: int
    median: float

    @property
    def stop(self) -> float:
        return self.start + self.width * len(self.counts)


def histogram(values: Sequence[float]) -> Histogram | None:
    """From 0 to the 99th percentile or so; None without values."""
    if not values:
        return None
    array = np.asarray(values, np.float64)
    stop = _round_up(max(float(np.percentile(array, 99)), 1e-9))
    width = stop / NUM_BINS
    bins = np.minimum((array / width).astype(np.int64), NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    return Histogram(0.0, width, tuple(map(int, counts)), len(array), float(np.median(array)))


def _round_up(value: float) -> float:
    """To 1, 1.2, 1.6, 2, 3, 4, 6 or 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if value <= step * power * (1 + 1e-9)))


def code_usage(counts_C: NDArray[np.int64]) -> Histogram:
    """How often the codes of each of 64 equal ranges of the codebook occur; the median is that of the ranges."""
    num_bins = min(64, len(counts_C))
    sums = [int(part.sum()) for part in np.array_split(counts_C, num_bins)]
    return Histogram(0.0, len(counts_C) / num_bins, tuple(sums), int(counts_C.sum()), float(np.median(sums)))
