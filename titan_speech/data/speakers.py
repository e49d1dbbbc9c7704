"""Pairing segments of one speaker.

In: the speaker of every sample of a part, in stored (shuffled) order. Out: for each sample the next one of its
speaker, in a circle: every usable segment is a target once and a reference once, and since the store is shuffled the
pairs are too. One sort: a million samples take 0.35 s.

Shapes: N samples of the part.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def next_of_speaker(speaker_N: pa.ChunkedArray, usable_N: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Another usable sample of the same speaker, or -1 (unusable, speaker unknown, or the speaker's only one)."""
    code_N = pc.fill_null(speaker_N.combine_chunks().dictionary_encode().indices, -1).to_numpy()
    kept = np.flatnonzero(usable_N & (code_N >= 0))
    order = kept[np.argsort(code_N[kept], kind="stable")]
    next_N = np.full(len(usable_N), -1, np.int32)
    if len(order) == 0:
        return next_N
    starts = np.flatnonzero(np.r_[True, np.diff(code_N[order]) != 0])
    following = np.roll(order, -1)
    following[np.r_[starts[1:], len(order)] - 1] = order[starts]
    next_N[order] = np.where(following == order, -1, following)
    return next_N
