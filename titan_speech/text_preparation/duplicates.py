"""Find exact and near duplicates among the documents of one language.

In: normalized text. Out: `Signature` (two hashes of the words and a MinHash); then, from the hashes, band keys and
signatures of N documents in the order of the inputs, for each document the earliest one it duplicates, or itself.

Words are compared in lower case without punctuation, so a document that differs in nothing else is an exact duplicate.
Runs of five words are signed with 112 permutations, in 14 bands of 8: two documents of Jaccard similarity 0.8 share a
band with probability 0.92, of 0.7 with 0.56, of 0.5 with 0.05. Documents that share a band are near duplicates if their
whole signatures agree in at least the configured share of permutations; near duplicates are joined transitively, and
the first document of each group is kept. Only the order of the inputs decides, so the result does not depend on the
number of processes. rensa signs 19,000 Hindi documents of 840 characters per second, datasketch 1,400.

Memory: 32 bytes per document (keys of one band, their order, the groups): 32 MB per million documents, for one language
at a time; keys and signatures (560 bytes per document) are memory-mapped files. Hundreds of GB of web text are 100 to
200 M documents: 6 GB. Beyond that prepare one language, or one part of its sources, at a time.

Shapes: N documents, C candidates among them, B = 14 bands, H = 112 permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import regex
import xxhash
from numpy.typing import NDArray
from rensa import RMinHash  # type: ignore[attr-defined]

NUM_PERMUTATIONS, NUM_BANDS = 112, 14
ROWS_PER_BAND = NUM_PERMUTATIONS // NUM_BANDS
WORDS_PER_SHINGLE, CHARS_PER_SHINGLE = 5, 12
MAX_MEAN_WORD_CHARS = 30
SEED = 1
MAX_LEADERS = 64

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}\u200c\u200d]+")


@dataclass(frozen=True)
class Signature:
    """What deduplication keeps of a document."""

    exact: tuple[int, int]
    """128-bit hash of its words, as two halves."""
    minhash_H: NDArray[np.uint32]


def sign(text: str) -> Signature:
    """Hash the words of a text and compute its MinHash signature."""
    words = _WORD.findall(text.lower())
    digest = xxhash.xxh3_128_intdigest(" ".join(words).encode())
    minhash = RMinHash(num_perm=NUM_PERMUTATIONS, seed=SEED)
    minhash.update(shingles(words))
    return Signature((digest >> 64, digest & (2**64 - 1)), np.array(minhash.digest(), dtype=np.uint32))


def shingles(words: list[str]) -> list[str]:
    """Runs of five words; runs of 12 characters in scripts that do not separate words by spaces."""
    if words and sum(map(len, words)) > MAX_MEAN_WORD_CHARS * len(words):
        text = "".join(words)
        return [text[i : i + CHARS_PER_SHINGLE] for i in range(max(1, len(text) - CHARS_PER_SHINGLE + 1))]
    return [" ".join(words[i : i + WORDS_PER_SHINGLE]) for i in range(max(1, len(words) - WORDS_PER_SHINGLE + 1))]


def band_keys(minhash_NH: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One key per band, [N, B]."""
    bands = np.ascontiguousarray(minhash_NH).reshape(-1, ROWS_PER_BAND)
    keys = [xxhash.xxh3_64_intdigest(band.tobytes()) for band in bands]
    return np.array(keys, dtype=np.uint64).reshape(-1, NUM_BANDS)


SimilarTo = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
"""(document, others) -> share of permutations in which each of the others agrees with the document."""


def first_exact(exact_N2: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each document the earliest one with the same words."""
    order_N = np.lexsort((exact_N2[:, 1], exact_N2[:, 0]))
    sorted_N2 = exact_N2[order_N]
    is_first_N = np.ones(len(order_N), dtype=bool)
    is_first_N[1:] = (sorted_N2[1:] != sorted_N2[:-1]).any(axis=1)
    first_N = np.empty(len(order_N), dtype=np.int64)
    first_N[order_N] = order_N[np.flatnonzero(is_first_N)[np.cumsum(is_first_N) - 1]]
    return first_N


class NearDuplicates:
    """Groups of near duplicates (union-find), joined band by band; the root of a group is its earliest document."""

    def __init__(self, num_documents: int) -> None:
        self._parent_N = np.arange(num_documents, dtype=np.int64)

    def root(self, document: int) -> int:
        while (parent := int(self._parent_N[document])) != document:
            self._parent_N[document] = self._parent_N[parent]
            document = parent
        return document

    def join_band(
        self, keys_N: NDArray[np.uint64], candidates_C: NDArray[np.int64], similar: SimilarTo, min_similarity: float
    ) -> None:
        """Join near duplicates among the candidates (ascending) that share a key of one band."""
        for bucket in buckets(keys_N[candidates_C], candidates_C):
            self._join_bucket(bucket, similar, min_similarity)

    def _join_bucket(self, bucket: NDArray[np.int64], similar: SimilarTo, min_similarity: float) -> None:
        """Join the documents similar to the first one, then repeat with the others. A bucket of more than 64 groups is
        boilerplate: its other documents are kept."""
        if len(bucket) == 2 and self.root(int(bucket[0])) == self.root(int(bucket[1])):
            return  # joined by another band
        for _ in range(MAX_LEADERS):
            leader, rest = int(bucket[0]), bucket[1:]
            is_similar = similar(leader, rest) >= min_similarity
            for other in rest[is_similar].tolist():
                self._join(leader, other)
            bucket = rest[~is_similar]
            if len(bucket) < 2:
                return

    def _join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent_N[high] = low

    def first_of_each(self) -> NDArray[np.int64]:
        """For each document the earliest one of its group."""
        while not np.array_equal(above := self._parent_N[self._parent_N], self._parent_N):
            self._parent_N = above
        return self._parent_N


def buckets(keys_C: NDArray[np.uint64], candidates_C: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
    """Groups of candidates with the same key, ascending inside each group."""
    order_C = np.argsort(keys_C, kind="stable")
    sorted_C = keys_C[order_C]
    borders = np.flatnonzero(sorted_C[1:] != sorted_C[:-1]) + 1
    starts = np.concatenate([[0], borders])
    stops = np.concatenate([borders, [len(sorted_C)]])
    for start, stop in zip(starts[stops - starts > 1].tolist(), stops[stops - starts > 1].tolist(), strict=True):
        yield candidates_C[order_C[start:stop]]
