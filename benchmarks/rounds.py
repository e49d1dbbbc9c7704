"""How much of a suite is measured.

In: how many contestants take turns, whether it must be quick. Out: `Rounds`. Of 24 pairs the median's 95 % interval
reaches from the 7th to the 18th, of ten from the 2nd to the 9th; with six contestants ten are what fits in minutes.
"""

from __future__ import annotations

from benchmarks.turns import Rounds

QUICK = Rounds(warmup_steps=2, window_steps=1, num_rounds=7)
QUICK_PAIR = Rounds(warmup_steps=2, window_steps=1, num_rounds=12)
PAIR = Rounds(warmup_steps=4, window_steps=2, num_rounds=24)
MANY = Rounds(warmup_steps=3, window_steps=1, num_rounds=10)


def rounds_of(num_contestants: int, is_quick: bool) -> Rounds:
    if num_contestants == 2:
        return QUICK_PAIR if is_quick else PAIR
    if is_quick:
        return QUICK
    return PAIR if num_contestants == 1 else MANY
