"""The two ways of filling packs, on lengths alone.

In: document lengths. Out: which documents share a pack.

`under` is for data that may be split (raw speech, text): documents lie end to end and a pack is a window of them.
Nothing is padded and nothing is lost.

`best_fit` is for samples that stay whole (paired speech): longest first, each into the fullest pack that still takes
it. The fill of groups of 4,096 samples at 2,048 tokens is 0.996 (lognormal, 9 s on average) or 0.988 (uniform, 2 to
40 s); opening a new pack whenever a sample does not fit gives 0.837 or 0.747. It takes 0.8 us a sample, by keeping the
set of free sizes as the bits of one integer.

How many packs `best_fit` fills depends on the lengths alone, not on the order of equal ones: that keeps the number of
packs of a group constant over epochs, and so every slot of a run findable in constant time. `num_best_fit` is that
number without saying what goes where, which takes less time: equal lengths go in together.

Fixed groups over the documents of a stream.

In: the documents of one or several parts. Out: group k with the documents in it that can be read. Members never change:
group k is the k-th slice of every part, so the parts of a stream are mixed evenly, and what packing finds out about a
group (how many packs it fills) holds for ever. About 4,096 documents fill packs to 0.996, and cost 0.2 MB while in use.

A large stream is read in lanes (lanes.py): runs of neighbouring groups, each with an order of its own. How many is
decided here, from the number of documents alone, and the number of groups is a multiple of it.

Shapes: N documents of a group.

What a group of documents becomes under some rules: which packs, and how many.

In: a group (groups.py) and `Rules`. Out: `Counts`, which depend on the lengths alone, and `OrderedGroup`, the documents
of an epoch in the order of its keys, of which a pack or a window takes neighbours.

How many packs a group of whole samples fills is the same in every epoch. Which of two equally long samples goes where,
and the order of the packs, are permuted anew by the key. What some packs leave of a group can be packed again under
other rules: that is how a later phase goes on inside a group.

Shapes: N documents of a group.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.documents import Documents
from titan_speech.data.order import permutation


def under(ends: Sequence[int], start: int, stop: int) -> tuple[int, int]:
    """First and end document under the window of tokens [start, stop).

    `ends[i]` is where document i ends; the window lies inside [0, ends[-1]) and is not empty.
    """
    return bisect_right(ends, start), bisect_left(ends, stop) + 1


def begin_of(ends: Sequence[int] | NDArray[np.integer], i: int) -> int:
    """Where the i-th of a run of neighbours begins, if these are their ends."""
    return int(ends[i - 1]) if i else 0


def best_fit(lengths: Sequence[int], capacity: int) -> tuple[list[int], int]:
    """Pack of each document and the number of packs; `lengths` fall and none is above the capacity."""
    packs_with_free: list[list[int]] = [[] for _ in range(capacity + 1)]
    free_sizes = 0  # bit f is set while some pack has exactly f tokens free
    pack_of, num_packs = [], 0
    for length in lengths:
        fitting = free_sizes >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            packs = packs_with_free[free]
            pack = packs.pop()
            if not packs:
                free_sizes ^= 1 << free
        else:
            free, pack = capacity, num_packs
            num_packs += 1
        pack_of.append(pack)
        free_sizes |= 1 << (free - length)
        packs_with_free[free - length].append(pack)
    return pack_of, num_packs


def num_best_fit(length_N: NDArray[np.int64], capacity: int) -> int:
    """Packs that `best_fit` fills with these lengths, given in any order; none is above the capacity or below 1."""
    count_L = np.bincount(length_N, minlength=capacity + 1)
    lengths = np.flatnonzero(count_L)[::-1]
    packs_with_free = [0] * (capacity + 1)
    free_sizes = num_packs = 0
    for length, left in zip(lengths.tolist(), count_L[lengths].tolist(), strict=True):
        while left:
            fitting = free_sizes >> length
            free = length + (fitting & -fitting).bit_length() - 1 if fitting else capacity
            each = free // length  # a pack stays the fullest that takes the next of them, until it takes none
            num_full = min(left // each, packs_with_free[free] if fitting else left)
            num_used, num_taken = (num_full, num_full * each) if num_full else (1, left)
            if not fitting:
                num_packs += num_used
            elif packs_with_free[free] == num_used:
                free_sizes ^= 1 << free
                packs_with_free[free] = 0
            else:
                packs_with_free[free] -= num_used
            free -= num_taken // num_used * length
            packs_with_free[free] += num_used
            free_sizes |= 1 << free
            left -= num_taken
    return num_packs


BLOCK_DOCUMENTS = 4096
PARTITION_BLOCKS = 64
"""Groups that a lane has at least, some 256 MB to 1 GB of speech: enough that a few of its shards are in use at a time
and not all of them."""
MAX_PARTITIONS = 64
"""Twice as many nodes could still read distinct lanes; above it the lanes of one node use many shards at once."""


@dataclass(frozen=True)
class Block:
    """Usable documents of one group."""

    part_N: NDArray[np.int64]
    document_N: NDArray[np.int64]
    length_N: NDArray[np.int64]
    start_N: NDArray[np.int64]
    """First token of each item in its document; above 0 only for the pieces of a split sample."""

    def taken(self, index: NDArray) -> Block:
        return Block(self.part_N[index], self.document_N[index], self.length_N[index], self.start_N[index])


class Blocks:
    """Fixed groups over the documents of a stream."""

    def __init__(
        self,
        documents: tuple[Documents, ...],
        group_documents: int = BLOCK_DOCUMENTS,
        lane_groups: int = PARTITION_BLOCKS,
    ) -> None:
        self.documents = documents
        self.sizes = [docs.num_documents for docs in documents]
        num_groups = max(1, -(-sum(self.sizes) // group_documents))
        self.max_lanes = power_of_two_below(min(num_groups // lane_groups, MAX_PARTITIONS))
        """Lanes that the documents allow; a power of two."""
        self.num_groups = -(-num_groups // self.max_lanes) * self.max_lanes

    def slices(self, k: int) -> list[tuple[int, int]]:
        """First and end document of group k in every part."""
        return [(k * size // self.num_groups, (k + 1) * size // self.num_groups) for size in self.sizes]

    def num_samples(self, k: int) -> int:
        return sum(stop - start for start, stop in self.slices(k))

    def group(self, k: int) -> Block:
        """The k-th slice of every part, without the documents that cannot be read."""
        parts, documents, lengths = [], [], []
        for part, (start, stop) in enumerate(self.slices(k)):
            parts.append(np.full(stop - start, part))
            documents.append(np.arange(start, stop))
            lengths.append(self.documents[part].lengths(start, stop).astype(np.int64))
        length_N = np.concatenate(lengths)
        group = Block(np.concatenate(parts), np.concatenate(documents), length_N, np.zeros_like(length_N))
        return group.taken(np.flatnonzero(length_N > 0))


def power_of_two_below(limit: int) -> int:
    """The greatest power of two up to `limit`; 1 for less."""
    return 1 << max(limit.bit_length() - 1, 0)


class Piece(NamedTuple):
    """Tokens [start, stop) of one document."""

    part: int
    """Which of the stream's documents."""
    document: int
    start: int
    stop: int


_NEW_PIECE = tuple.__new__


@dataclass(frozen=True)
class PackCounts:
    """What a stream holds and what it leaves out."""

    num_documents: int = 0
    """Documents of an epoch."""
    num_tokens: int = 0
    """Tokens of an epoch."""
    num_packs: float = 0.0
    """Packs of an epoch; a fraction where packs span epochs."""
    num_unusable: int = 0
    """Samples that cannot be read as the task: no transcript, no second segment of the speaker."""
    num_dropped: int = 0
    """Samples above the sequence length that are left out."""
    num_split: int = 0
    """Samples above the sequence length that are cut, where samples otherwise stay whole."""
    num_usable_tokens: int = 0
    """Tokens of all samples that can be read as the task, those left out for their length included."""
    longest: int = 0
    """Tokens of the longest document, also of one left out."""

    @property
    def num_too_long(self) -> int:
        return self.num_dropped + self.num_split

    def __add__(self, other: PackCounts) -> PackCounts:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return PackCounts(**sums, longest=max(self.longest, other.longest))


_SUMMED = (
    *("num_documents", "num_tokens", "num_packs", "num_unusable", "num_dropped", "num_split", "num_usable_tokens"),
)


@dataclass(frozen=True)
class PackingRules:
    """How samples become packs."""

    seq_len: int
    split: bool = False
    """Whether a whole sample above the sequence length is cut into pieces; else it is left out."""


class OrderedBlock(NamedTuple):
    """Documents of a group in the order of one epoch, as arrays of machine words, fast to index one by one."""

    parts: array[int]
    documents: array[int]
    starts: array[int]
    stops: array[int]
    ends: array[int]
    """Where each document ends in the group's tokens (SplitStream), or each pack in its documents (WholeStream)."""

    @classmethod
    def of(cls, group: Block, end_N: NDArray[np.int64]) -> OrderedBlock:
        columns = (group.part_N, group.document_N, group.start_N, group.start_N + group.length_N, end_N)
        return cls(*(array("q", column.astype(np.int64).tobytes()) for column in columns))

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """Those numbered [begin, end), whole."""
        some = slice(begin, end)
        values = zip(self.parts[some], self.documents[some], self.starts[some], self.stops[some], strict=True)
        return list(map(_NEW_PIECE, repeat(Piece), values))  # calling Piece takes longer


def split_counts(groups: Blocks, rules: PackingRules, run: range | None = None) -> list[PackCounts]:
    """What each group of the run (or all) holds for a SplitStream."""
    return [_split_counts(groups.group(k), groups.num_samples(k), rules) for k in run or range(groups.num_groups)]


def _split_counts(group: Block, num_samples: int, rules: PackingRules) -> PackCounts:
    num_tokens, num_documents = int(group.length_N.sum()), len(group.length_N)
    return PackCounts(
        num_documents=num_documents,
        num_tokens=num_tokens,
        num_packs=num_tokens / rules.seq_len,
        num_unusable=num_samples - num_documents,
        num_usable_tokens=num_tokens,
        longest=int(group.length_N.max(initial=0)),
    )


def whole_counts(groups: Blocks, rules: PackingRules, run: range | None = None) -> list[PackCounts]:
    """What each group of the run (or all) holds for a WholeStream."""
    return [_whole_counts(groups.group(k), groups.num_samples(k), rules) for k in run or range(groups.num_groups)]


def _whole_counts(group: Block, num_samples: int, rules: PackingRules) -> PackCounts:
    items = fitting_items(group, rules)
    num_too_long = int((group.length_N > rules.seq_len).sum())
    return PackCounts(
        num_documents=int((items.start_N == 0).sum()),
        num_tokens=int(items.length_N.sum()),
        num_packs=num_best_fit(items.length_N, rules.seq_len),
        num_unusable=num_samples - len(group.length_N),
        num_dropped=0 if rules.split else num_too_long,
        num_split=num_too_long if rules.split else 0,
        num_usable_tokens=int(group.length_N.sum()),
        longest=int(group.length_N.max(initial=0)),
    )


def fitting_items(group: Block, rules: PackingRules) -> Block:
    """What is packed: items that fit, and with `split` the pieces of those that do not."""
    if not rules.split:
        return group.taken(np.flatnonzero(group.length_N <= rules.seq_len))
    num_pieces_N = -(-group.length_N // rules.seq_len)
    pieces = group.taken(np.repeat(np.arange(len(num_pieces_N)), num_pieces_N))
    first_N = np.cumsum(num_pieces_N) - num_pieces_N
    offset_N = (np.arange(len(pieces.length_N)) - np.repeat(first_N, num_pieces_N)) * rules.seq_len
    length_N = np.minimum(pieces.length_N - offset_N, rules.seq_len)
    return replace(pieces, start_N=pieces.start_N + offset_N, length_N=length_N)


def pack_block(
    group: Block, key: str, rules: PackingRules, num_read: int = 0
) -> tuple[tuple[Block, NDArray[np.int64]], Block]:
    """The group's items by pack with the end of each pack, and what is left of the group after `num_read` packs."""
    items = fitting_items(group, rules)
    items = items.taken(permutation(f"{key}/documents", len(items.length_N)))
    items = items.taken(np.argsort(-items.length_N, kind="stable"))
    packs, num_packs = best_fit(items.length_N.tolist(), rules.seq_len)
    pack_N = permutation(f"{key}/packs", num_packs)[packs]
    items = items.taken(np.argsort(pack_N, kind="stable"))
    end_N = np.cumsum(np.bincount(pack_N, minlength=num_packs))
    left = items.taken(np.arange(begin_of(end_N, num_read), len(items.length_N))) if num_read else items
    if not rules.split:
        left = _joined(left, group.taken(np.flatnonzero(group.length_N > rules.seq_len)))
    return (items, end_N), left


def _joined(a: Block, b: Block) -> Block:
    """Both; samples left out for their length wait for a phase that has room for them."""
    fields = ("part_N", "document_N", "length_N", "start_N")
    return Block(**{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in fields})
