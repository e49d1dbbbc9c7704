"""Fixed groups over the documents of a stream.

In: the documents of one or several parts. Out: group k with the documents in it that can be read. Members never change:
group k is the k-th slice of every part, so the parts of a stream are mixed evenly, and what packing finds out about a
group (how many packs it fills) holds for ever. About 4,096 documents fill packs to 0.996, and cost 0.3 MB while in use.

Shapes: N documents of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.documents import Documents

GROUP_DOCUMENTS = 4096


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

    def __init__(self, documents: tuple[Documents, ...], group_documents: int = GROUP_DOCUMENTS) -> None:
        self.documents = documents
        self.sizes = [docs.num_documents for docs in documents]
        self.num_groups = max(1, -(-sum(self.sizes) // group_documents))

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
