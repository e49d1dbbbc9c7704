"""Fixed groups over the documents of a stream.

In: the documents of one or several parts. Out: group k with the documents in it that can be read. Members never change:
group k is the k-th slice of every part, so the parts of a stream are mixed evenly, and what packing finds out about a
group (how many packs it fills) holds for ever. About 4,096 documents fill packs to 0.996, and cost 0.2 MB while in use.

A large stream is read in lanes (lanes.py): runs of neighbouring groups, each with an order of its own. How many is
decided here, from the number of documents alone, and the number of groups is a multiple of it.

Shapes: N documents of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.documents import Documents

GROUP_DOCUMENTS = 4096
LANE_GROUPS = 64
"""Groups that a lane has at least, some 256 MB to 1 GB of speech: enough that a few of its shards are in use at a time
and not all of them."""
MAX_LANES = 64
"""Twice as many nodes could still read distinct lanes; above it the lanes of one node use many shards at once."""


@dataclass(frozen=True)
class Group:
    """Usable documents of one group."""

    part_N: NDArray[np.int64]
    document_N: NDArray[np.int64]
    length_N: NDArray[np.int64]
    start_N: NDArray[np.int64]
    """First token of each item in its document; above 0 only for the pieces of a split sample."""

    def taken(self, index: NDArray) -> Group:
        return Group(self.part_N[index], self.document_N[index], self.length_N[index], self.start_N[index])


class Groups:
    """Fixed groups over the documents of a stream."""

    def __init__(
        self,
        documents: tuple[Documents, ...],
        group_documents: int = GROUP_DOCUMENTS,
        lane_groups: int = LANE_GROUPS,
    ) -> None:
        self.documents = documents
        self.sizes = [docs.num_documents for docs in documents]
        num_groups = max(1, -(-sum(self.sizes) // group_documents))
        self.max_lanes = power_of_two_below(min(num_groups // lane_groups, MAX_LANES))
        """Lanes that the documents allow; a power of two."""
        self.num_groups = -(-num_groups // self.max_lanes) * self.max_lanes

    def slices(self, k: int) -> list[tuple[int, int]]:
        """First and end document of group k in every part."""
        return [(k * size // self.num_groups, (k + 1) * size // self.num_groups) for size in self.sizes]

    def num_samples(self, k: int) -> int:
        return sum(stop - start for start, stop in self.slices(k))

    def group(self, k: int) -> Group:
        """The k-th slice of every part, without the documents that cannot be read."""
        parts, documents, lengths = [], [], []
        for part, (start, stop) in enumerate(self.slices(k)):
            parts.append(np.full(stop - start, part))
            documents.append(np.arange(start, stop))
            lengths.append(self.documents[part].lengths(start, stop).astype(np.int64))
        length_N = np.concatenate(lengths)
        group = Group(np.concatenate(parts), np.concatenate(documents), length_N, np.zeros_like(length_N))
        return group.taken(np.flatnonzero(length_N > 0))


def power_of_two_below(limit: int) -> int:
    """The greatest power of two up to `limit`; 1 for less."""
    return 1 << max(limit.bit_length() - 1, 0)
