"""Numbers for names, and the next segment of each speaker.

In: a column of names (speakers, recordings) or the speaker of every sample of a part, in stored (shuffled) order. Out:
int32 numbers; for each sample the next one of its speaker, in a circle: every segment is a target once and a reference
once, and since the store is shuffled the pairs are too. One sort: a million samples take 0.35 s.

Shapes: N samples of the part.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def numbered(name_N: pa.ChunkedArray) -> NDArray[np.int32]:
    """A number for each name of the column; -1 where there is none."""
    if not len(name_N):
        return np.empty(0, np.int32)
    indices = name_N.combine_chunks().dictionary_encode().indices
    return pc.fill_null(indices, -1).to_numpy().astype(np.int32)


def next_of_speaker(speaker_N: NDArray[np.int32]) -> NDArray[np.int32]:
    """Another sample of the same speaker, or -1 (speaker unknown, -1, or the speaker's only sample)."""
    kept = np.flatnonzero(speaker_N >= 0)
    order = kept[np.argsort(speaker_N[kept], kind="stable")]
    next_N = np.full(len(speaker_N), -1, np.int32)
    if len(order) == 0:
        return next_N
    starts = np.flatnonzero(np.r_[True, np.diff(speaker_N[order]) != 0])
    following = np.roll(order, -1)
    following[np.r_[starts[1:], len(order)] - 1] = order[starts]
    next_N[order] = np.where(following == order, -1, following)
    return next_N
