"""Loss spikes: a loss far above what the steps before it had.

In: the mean loss of each step that counted. Out: whether it is a spike: above the median of a window by more than `z`
robust standard deviations (1.4826 times the median absolute deviation, at least half a percent of the median, so that
a quiet run does not call noise a spike). Until the window is full nothing is one; steps of the warmup do not fill it.
The cost is two medians of a hundred floats a step, 20 us on the host.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

MAD_TO_STD = 1.4826
LEAST_STD = 0.005
"""Of the median."""


class SpikeDetector:
    """Window of losses; `z` = 0 never sees a spike."""

    def __init__(self, z: float, window_steps: int, warmup_steps: int) -> None:
        self.z, self.warmup_steps = z, warmup_steps
        self.losses: deque[float] = deque(maxlen=window_steps)

    def sees_spike(self, step: int, loss: float) -> bool:
        """Adds the loss to the window, spike or not: a level that stays becomes the usual one."""
        if step <= self.warmup_steps or not self.z:
            return False
        is_spike = len(self.losses) == self.losses.maxlen and loss > self.limit()
        self.losses.append(loss)
        return is_spike

    def limit(self) -> float:
        """The largest loss that is none."""
        middle = statistics.median(self.losses)
        deviation = statistics.median(abs(loss - middle) for loss in self.losses)
        return middle + self.z * max(MAD_TO_STD * deviation, LEAST_STD * abs(middle))

    def restore(self, losses: Iterable[float]) -> None:
        self.losses = deque(losses, maxlen=self.losses.maxlen)
