"""Which documents share a pack: fixed blocks of documents, two ways of filling packs, and what a block then holds.

In: the documents of a stream, of which only lengths are read. Out: `Blocks`, the `PackCounts` of each block, and
`OrderedBlock`: the documents of a block in the order of one epoch, of which a pack takes neighbours.

**Blocks.** Block k is the k-th slice of every part, about 4,096 documents, so the parts of a stream are mixed evenly.
Its members never change, so whatever packing finds out about a block (how many packs it fills) stays valid. A block
takes 0.2 MB while it is in use. A large stream is read in shuffle partitions (shuffle_partitions.py): runs of
neighbouring blocks. How many partitions there may be follows from the number of documents alone.

**Windows** (`documents_in_window`) are for data that may be split (raw speech, text): documents are concatenated and a
pack is a window of them. Nothing is padded and nothing is lost.

**Best fit** (`best_fit`) is for documents that stay whole (paired speech): longest first, each into the fullest pack
that has enough free tokens. Blocks of 4,096 samples at 2,048 tokens are filled to 0.996 (lognormal, 9 s on average) or
0.988 (uniform, 2 to 40 s); opening a new pack whenever a sample does not fit gives 0.837 or 0.747. It takes 0.8 us per
sample, because the set of free sizes is kept as the bits of one integer.

The number of packs that `best_fit` fills depends on the lengths alone, not on the order of equal ones. So it is the
same in every epoch, and any slot of a run is found in constant time. `num_best_fit` computes that number alone, in less
time: equal lengths are placed together. Which of two equally long documents goes where, and the order of the packs, are
permuted in every epoch by its key. What some packs leave of a block can be packed again under other rules, which is how
a later phase resumes inside a block.

Shapes: N documents of a block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.documents import Documents
from titan_speech.data.order import permutation

BLOCK_DOCUMENTS = 4096
PARTITION_BLOCKS = 64
"""Blocks that a shuffle partition has at least, some 256 MB to 1 GB of speech: enough that only a few of its shards are
in use at a time."""
MAX_PARTITIONS = 64
"""Twice as many nodes could still read distinct partitions; with more, those of one node use many shards at once."""


@dataclass(frozen=True)
class Block:
    """Usable documents of one block, or pieces of them."""

    part_N: NDArray[np.int64]
    document_N: NDArray[np.int64]
    length_N: NDArray[np.int64]
    start_N: NDArray[np.int64]
    """First token of each item in its document; above 0 only for the pieces of a split sample."""

    def select(self, index: NDArray) -> Block:
        return Block(self.part_N[index], self.document_N[index], self.length_N[index], self.start_N[index])


class Blocks:
    """Fixed blocks over the documents of a stream."""

    def __init__(
        self,
        documents: tuple[Documents, ...],
        block_documents: int = BLOCK_DOCUMENTS,
        min_partition_blocks: int = PARTITION_BLOCKS,
    ) -> None:
        self.documents = documents
        self.sizes = [docs.num_documents for docs in documents]
        num_blocks = max(1, -(-sum(self.sizes) // block_documents))
        self.max_partitions = floor_power_of_two(min(num_blocks // min_partition_blocks, MAX_PARTITIONS))
        """Shuffle partitions that the number of documents allows; a power of two."""
        self.num_blocks = -(-num_blocks // self.max_partitions) * self.max_partitions
        """A multiple of `max_partitions`."""

    def slices(self, k: int) -> list[tuple[int, int]]:
        """First and end document of block k in every part."""
        return [(k * size // self.num_blocks, (k + 1) * size // self.num_blocks) for size in self.sizes]

    def num_samples(self, k: int) -> int:
        return sum(stop - start for start, stop in self.slices(k))

    def block(self, k: int) -> Block:
        """Block k without the documents that cannot be read as the task."""
        parts, documents, lengths = [], [], []
        for part, (start, stop) in enumerate(self.slices(k)):
            parts.append(np.full(stop - start, part))
            documents.append(np.arange(start, stop))
            lengths.append(self.documents[part].lengths(start, stop).astype(np.int64))
        length_N = np.concatenate(lengths)
        block = Block(np.concatenate(parts), np.concatenate(documents), length_N, np.zeros_like(length_N))
        return block.select(np.flatnonzero(length_N > 0))


def floor_power_of_two(limit: int) -> int:
    """The greatest power of two up to `limit`; 1 if `limit` is below 1."""
    return 1 << max(limit.bit_length() - 1, 0)


def documents_in_window(ends: Sequence[int], start: int, stop: int) -> tuple[int, int]:
    """First and end document of concatenated documents that overlap the window of tokens [start, stop).

    `ends[i]` is where document i ends; the window is inside [0, ends[-1]) and not empty.
    """
    return bisect_right(ends, start), bisect_left(ends, stop) + 1


def start_of(ends: Sequence[int] | NDArray[np.integer], i: int) -> int:
    """Where item i begins, if the items are concatenated and end at `ends`."""
    return int(ends[i - 1]) if i else 0


def best_fit(lengths: Sequence[int], capacity: int) -> tuple[list[int], int]:
    """Pack the lengths, longest first, each into the fullest pack that has enough free tokens.

    Args:
        lengths: in falling order, none above the capacity.
        capacity: tokens of a pack.

    Returns:
        The pack of each length, and the number of packs.
    """
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
    """The number of packs that `best_fit` fills with these lengths: 1 to `capacity` each, in any order."""
    count_L = np.bincount(length_N, minlength=capacity + 1)
    lengths = np.flatnonzero(count_L)[::-1]
    packs_with_free = [0] * (capacity + 1)
    free_sizes = num_packs = 0
    for length, left in zip(lengths.tolist(), count_L[lengths].tolist(), strict=True):
        while left:
            fitting = free_sizes >> length
            free = length + (fitting & -fitting).bit_length() - 1 if fitting else capacity
            each = free // length  # equal lengths go into the same pack until it has too few free tokens
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


class Piece(NamedTuple):
    """Tokens [start, stop) of one document."""

    part: int
    """Which of the stream's documents."""
    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class PackCounts:
    """What a block or a stream holds under some packing rules, and what is left out."""

    num_documents: int = 0
    """Documents per epoch."""
    num_tokens: int = 0
    """Tokens per epoch."""
    num_packs: float = 0.0
    """Packs per epoch; a fraction if packs span epochs."""
    num_unusable: int = 0
    """Samples that cannot be read as the task: no transcript, no second segment of the speaker."""
    num_dropped: int = 0
    """Samples above the sequence length that are left out."""
    num_split: int = 0
    """Samples above the sequence length that are split, of a task whose samples otherwise stay whole."""
    num_usable_tokens: int = 0
    """Tokens of all samples that can be read as the task, including those left out for their length."""
    longest: int = 0
    """Tokens of the longest document, including documents left out."""

    @property
    def num_too_long(self) -> int:
        return self.num_dropped + self.num_split

    def __add__(self, other: PackCounts) -> PackCounts:
        names = [field.name for field in fields(self) if field.name != "longest"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return PackCounts(**sums, longest=max(self.longest, other.longest))


@dataclass(frozen=True)
class PackingRules:
    """How samples become packs."""

    seq_len: int
    split: bool = False
    """Whether a whole sample above the sequence length is split into pieces; otherwise it is left out."""


class OrderedBlock(NamedTuple):
    """Documents of a block in the order of one epoch, as arrays that are fast to index one by one."""

    parts: array[int]
    documents: array[int]
    starts: array[int]
    stops: array[int]
    ends: array[int]
    """Where each document ends in the block's tokens (SplitStream), or each pack in its documents (WholeStream)."""

    @classmethod
    def of(cls, block: Block, end_N: NDArray[np.int64]) -> OrderedBlock:
        columns = (block.part_N, block.document_N, block.start_N, block.start_N + block.length_N, end_N)
        return cls(*(array("q", column.astype(np.int64).tobytes()) for column in columns))

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """Whole documents number `begin` to `end` - 1."""
        some = slice(begin, end)
        values = zip(self.parts[some], self.documents[some], self.starts[some], self.stops[some], strict=True)
        return list(map(tuple.__new__, repeat(Piece), values))  # calling Piece takes twice as long


def split_counts(blocks: Blocks, k: int, rules: PackingRules) -> PackCounts:
    """What block k holds for a SplitStream."""
    block, num_samples = blocks.block(k), blocks.num_samples(k)
    num_tokens, num_documents = int(block.length_N.sum()), len(block.length_N)
    return PackCounts(
        num_documents=num_documents,
        num_tokens=num_tokens,
        num_packs=num_tokens / rules.seq_len,
        num_unusable=num_samples - num_documents,
        num_usable_tokens=num_tokens,
        longest=int(block.length_N.max(initial=0)),
    )


def whole_counts(blocks: Blocks, k: int, rules: PackingRules) -> PackCounts:
    """What block k holds for a WholeStream."""
    block, num_samples = blocks.block(k), blocks.num_samples(k)
    items = fitting_items(block, rules)
    num_too_long = int((block.length_N > rules.seq_len).sum())
    return PackCounts(
        num_documents=int((items.start_N == 0).sum()),
        num_tokens=int(items.length_N.sum()),
        num_packs=num_best_fit(items.length_N, rules.seq_len),
        num_unusable=num_samples - len(block.length_N),
        num_dropped=0 if rules.split else num_too_long,
        num_split=num_too_long if rules.split else 0,
        num_usable_tokens=int(block.length_N.sum()),
        longest=int(block.length_N.max(initial=0)),
    )


def fitting_items(block: Block, rules: PackingRules) -> Block:
    """Items that fit a pack, and with `rules.split` the pieces of those that do not."""
    if not rules.split:
        return block.select(np.flatnonzero(block.length_N <= rules.seq_len))
    num_pieces_N = -(-block.length_N // rules.seq_len)
    pieces = block.select(np.repeat(np.arange(len(num_pieces_N)), num_pieces_N))
    first_N = np.cumsum(num_pieces_N) - num_pieces_N
    offset_N = (np.arange(len(pieces.length_N)) - np.repeat(first_N, num_pieces_N)) * rules.seq_len
    length_N = np.minimum(pieces.length_N - offset_N, rules.seq_len)
    return replace(pieces, start_N=pieces.start_N + offset_N, length_N=length_N)


def pack_block(
    block: Block, key: str, rules: PackingRules, num_read: int = 0
) -> tuple[tuple[Block, NDArray[np.int64]], Block]:
    """Pack a block best fit, in the order that `key` gives.

    Returns:
        The items in the order of their packs with the end of each pack, and what `num_read` packs leave of the block.
    """
    items = fitting_items(block, rules)
    items = items.select(permutation(f"{key}/documents", len(items.length_N)))
    items = items.select(np.argsort(-items.length_N, kind="stable"))
    packs, num_packs = best_fit(items.length_N.tolist(), rules.seq_len)
    pack_N = permutation(f"{key}/packs", num_packs)[packs]
    items = items.select(np.argsort(pack_N, kind="stable"))
    end_N = np.cumsum(np.bincount(pack_N, minlength=num_packs))
    left = items.select(np.arange(start_of(end_N, num_read), len(items.length_N))) if num_read else items
    if not rules.split:  # samples left out for their length remain for a phase with a greater sequence length
        too_long = block.select(np.flatnonzero(block.length_N > rules.seq_len))
        columns = ((getattr(left, field.name), getattr(too_long, field.name)) for field in fields(Block))
        left = Block(*map(np.concatenate, columns))
    return (items, end_N), left
