"""Which documents of one language are copies of an earlier one.

In: hashes, band keys and signatures of N documents in the order of the inputs. Out: for each document the earliest one
it copies, or itself. Documents that share a band and whose signatures agree in at least the asked share of permutations
are joined, and joining is transitive; the first of each group stays. The order of the inputs decides alone, so the
result does not depend on the number of processes.

Memory: 32 bytes a document (one band's keys, their order, the groups): 32 MB per million documents, for one language at
a time; keys and signatures (560 bytes a document) lie in memory-mapped files. Hundreds of GB of web text are 100 to 200
M documents: 6 GB. Beyond that prepare a language, or one part of its sources, at a time.

Shapes: N documents, B bands, H permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

MAX_LEADERS = 64

SimilarTo = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
"""Share of permutations in which documents agree with one."""


def exact_copies(exact_N2: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The earliest document with the same words."""
    order_N = np.lexsort((exact_N2[:, 1], exact_N2[:, 0]))
    sorted_N2 = exact_N2[order_N]
    is_first_N = np.ones(len(order_N), dtype=bool)
    is_first_N[1:] = (sorted_N2[1:] != sorted_N2[:-1]).any(axis=1)
    first_N = np.empty(len(order_N), dtype=np.int64)
    first_N[order_N] = order_N[np.flatnonzero(is_first_N)[np.cumsum(is_first_N) - 1]]
    return first_N


class NearCopies:
    """Groups of near copies, grown band by band."""

    def __init__(self, num_documents: int) -> None:
        self._parent_N = np.arange(num_documents, dtype=np.int64)

    def root(self, document: int) -> int:
        while (parent := int(self._parent_N[document])) != document:
            self._parent_N[document] = self._parent_N[parent]
            document = parent
        return document

    def join_band(
        self, keys_N: NDArray[np.uint64], candidates_C: NDArray[np.int64], similar: SimilarTo, least: float
    ) -> None:
        """Joins what shares a key; only `candidates_C`, in ascending order, are looked at."""
        for bucket in buckets(keys_N[candidates_C], candidates_C):
            self._join_bucket(bucket, similar, least)

    def _join_bucket(self, bucket: NDArray[np.int64], similar: SimilarTo, least: float) -> None:
        """Each leader takes what is like it; what is left has its own leader. A bucket of more than 64 kinds is
        boilerplate: the rest of it stays."""
        if len(bucket) == 2 and self.root(int(bucket[0])) == self.root(int(bucket[1])):
            return  # another band has joined them
        for _ in range(MAX_LEADERS):
            leader, rest = int(bucket[0]), bucket[1:]
            is_like = similar(leader, rest) >= least
            for other in rest[is_like].tolist():
                self._join(leader, other)
            bucket = rest[~is_like]
            if len(bucket) < 2:
                return

    def _join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent_N[high] = low

    def first_of_each(self) -> NDArray[np.int64]:
        """The earliest document of each document's group."""
        while not np.array_equal(above := self._parent_N[self._parent_N], self._parent_N):
            self._parent_N = above
        return self._parent_N


def buckets(keys_C: NDArray[np.uint64], candidates_C: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
    """Documents that share a key with another, ascending inside each bucket."""
    order_C = np.argsort(keys_C, kind="stable")
    sorted_C = keys_C[order_C]
    borders = np.flatnonzero(sorted_C[1:] != sorted_C[:-1]) + 1
    starts = np.concatenate([[0], borders])
    stops = np.concatenate([borders, [len(sorted_C)]])
    for start, stop in zip(starts[stops - starts > 1].tolist(), stops[stops - starts > 1].tolist(), strict=True):
        yield candidates_C[order_C[start:stop]]
