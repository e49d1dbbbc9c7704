"""How fast a language is spoken here, and how far one sample lies from that.

In: rates (characters a second, characters a code) of a language's samples. Out: their median and spread, and the
distance of one rate from the median in spreads. Rates are compared by their logarithm, where twice as fast lies as
far as half as fast. The spread is the median absolute deviation scaled to a normal's standard deviation: with up to
half the samples wrong it still says what the others do, where one wrong sample moves mean and deviation at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MIN_SAMPLES = 20
MAD_TO_SIGMA = 1.4826
SMALLEST_SPREAD = 0.05
"""In log units, 5 %: where most samples have one rate, a few per cent off is no outlier."""


@dataclass(frozen=True)
class Spread:
    """Median of a rate and its robust spread in log units."""

    median: float
    spread: float

    def distance(self, rate: float) -> float:
        """Spreads from the median; infinite for a rate of 0."""
        return abs(math.log(rate / self.median)) / self.spread if rate > 0 else math.inf


def spread_of(rates: Iterable[float]) -> Spread | None:
    """None of fewer than 20: too few to say what is usual."""
    positive = np.array([rate for rate in rates if rate > 0])
    if len(positive) < MIN_SAMPLES:
        return None
    logs = np.log(positive)
    centre = float(np.median(logs))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(logs - centre)))
    return Spread(math.exp(centre), max(spread, SMALLEST_SPREAD))
