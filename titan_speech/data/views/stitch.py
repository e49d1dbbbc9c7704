"""Long speech: neighbouring segments of one recording and speaker as one document, in their order.

In: the recording, speaker, number and times of each sample of a part, its length, the widest gap and the greatest
length. Out: for each sample the next one of its document, and the length of the document it opens (0 if it opens none).

    recording 7   #3 [0.0 .. 4.1)  #4 [4.3 .. 9.0)  #5 [15.0 .. 20.0)  #6 [20.1 .. 31.0)     gap at most 2 s
    documents     bos start codes 3 codes 4 end     bos start codes 5 codes 6 end

Two segments are neighbours if their numbers follow each other and so do their times, without an overlap and with at
most the gap between them. A run of neighbours is cut where the next segment would pass the greatest length. Segments
without recording, speaker, number or times, and those without a neighbour, are no long speech: they open no document,
and are counted as unusable. Numbers that contradict the times stop the run. A million segments take 1.1 s (busy core).

Shapes: N samples of a part, K those that can be stitched, sorted by recording, speaker and number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.views.clone import Spans

OVERLAP_SEC = 0.02
"""One code: what rounding of times may take off a gap of 0."""


class Chains(NamedTuple):
    """Documents of a part."""

    next_N: NDArray[np.int32]
    """The next segment of the document, -1 for its last."""
    length_N: NDArray[np.int32]
    """Codes of the document that a sample opens, 0 if it opens none."""

    def samples(self, i: int) -> tuple[int, ...]:
        """Segments of the document that sample i opens."""
        found = [i]
        while (i := int(self.next_N[i])) >= 0:
            found.append(i)
        return tuple(found)


def stitch(
    spans: Spans,
    speaker_N: NDArray[np.int32],
    number_N: NDArray[np.int64],
    num_codes_N: NDArray[np.int32],
    max_gap_sec: float,
    max_codes: int,
) -> Chains:
    """`number_N` is the place of a segment in its recording, -1 where it is unknown; so are speaker and recording."""
    known_N = (spans.recording_N >= 0) & (speaker_N >= 0) & (number_N >= 0) & (num_codes_N > 0)
    known_N &= np.isfinite(spans.start_sec_N) & np.isfinite(spans.end_sec_N)
    known = np.flatnonzero(known_N)
    order_K = known[np.lexsort((number_N[known], speaker_N[known], spans.recording_N[known]))]
    follows_K = _follows(order_K, spans, speaker_N, number_N, max_gap_sec)
    in_run_K = follows_K | np.append(follows_K[1:], False)
    order_K, follows_K = order_K[in_run_K], follows_K[in_run_K]
    follows_K &= ~_cuts(num_codes_N[order_K], follows_K, max_codes)
    return _chains(order_K, follows_K, num_codes_N)


def _chains(order_K: NDArray, follows_K: NDArray[np.bool_], num_codes_N: NDArray[np.int32]) -> Chains:
    next_N, length_N = np.full(len(num_codes_N), -1, np.int32), np.zeros(len(num_codes_N), np.int32)
    next_N[order_K[:-1][follows_K[1:]]] = order_K[1:][follows_K[1:]]
    first = np.flatnonzero(~follows_K)
    if len(first):
        length_N[order_K[first]] = np.add.reduceat(num_codes_N[order_K], first)
    return Chains(next_N, length_N)


def _follows(
    order_K: NDArray, spans: Spans, speaker_N: NDArray[np.int32], number_N: NDArray[np.int64], max_gap_sec: float
) -> NDArray[np.bool_]:
    """Whether each segment goes on where the one before it ended."""
    follows_K = np.zeros(len(order_K), np.bool_)
    a, b = order_K[:-1], order_K[1:]
    same = (spans.recording_N[a] == spans.recording_N[b]) & (speaker_N[a] == speaker_N[b])
    contradicts = same & ((number_N[a] == number_N[b]) | (spans.start_sec_N[a] >= spans.start_sec_N[b]))
    if contradicts.any():
        raise OrderContradictionError(int(a[contradicts][0]), int(b[contradicts][0]), int(contradicts.sum()))
    gap_sec = spans.start_sec_N[b] - spans.end_sec_N[a]
    is_near = (gap_sec >= -OVERLAP_SEC) & (gap_sec <= max_gap_sec)
    follows_K[1:] = same & (number_N[b] == number_N[a] + 1) & is_near
    return follows_K


class OrderContradictionError(Exception):
    """Two segments whose numbers do not agree with their times, and how many such pairs there are."""

    def __init__(self, earlier: int, later: int, count: int) -> None:
        super().__init__(earlier, later, count)
        self.earlier, self.later, self.count = earlier, later, count


def _cuts(codes_K: NDArray[np.int32], follows_K: NDArray[np.bool_], max_codes: int) -> NDArray[np.bool_]:
    """Segments inside a run that would pass the greatest length; all runs are walked at once, a document a step."""
    before_K = np.append(0, np.cumsum(codes_K, dtype=np.int64))
    cuts_K = np.zeros(len(codes_K), np.bool_)
    starts = np.flatnonzero(~follows_K)
    ends = np.append(starts[1:], len(codes_K))
    while len(starts):
        stops = np.searchsorted(before_K, before_K[starts] + max_codes, side="right") - 1
        stops = np.maximum(stops, starts + 1)
        inside = stops < ends
        starts, ends = stops[inside], ends[inside]
        cuts_K[starts] = True
    return cuts_K
