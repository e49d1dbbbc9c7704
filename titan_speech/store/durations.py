"""Whether the times of a segment and its codes are of one length.

In: how many codes a segment has, how long it is by its times, the codec's rate. Out: how far they are apart. Codecs
pad and fill up their last frame, times are rounded or lie on a grid of their own: a few codes more or less prove
nothing.
"""

from __future__ import annotations

from titan_speech.store.samples import SampleInfo

SLACK_CODES = 2.0
"""XCodec2's padding adds one code, the last frame is filled up, and times are often rounded to 10 ms."""
SLACK_SHARE = 0.02
"""Of the length: resampled video drifts, a wrong rate or a cut segment is off by more."""


def excess(num_codes: int, duration_sec: float, codes_per_sec: float) -> float:
    """The difference as a multiple of what is tolerated; up to 1 they agree."""
    expected = duration_sec * codes_per_sec
    return abs(num_codes - expected) / (SLACK_CODES + SLACK_SHARE * expected)


def told(num_codes: int, duration_sec: float, codes_per_sec: float) -> str:
    """What was found."""
    return f"{num_codes} codes; its times ({duration_sec:.2f} s) make {duration_sec * codes_per_sec:.0f}"


def duration_of(info: SampleInfo) -> float | None:
    """Seconds, where both times are known."""
    return None if info.start_time is None or info.end_time is None else info.end_time - info.start_time
