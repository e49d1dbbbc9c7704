"""One shuffle partition of a stream as an endless sequence of packs; any pack is found without reading those before it.

In: a run of the stream's blocks, and where to begin. Out: `pieces(j)`: what the j-th pack from there holds, and
`cursor(n)`: the read position after n packs, from which a later phase resumes with another sequence length.

Documents form fixed blocks (packing.py), each concatenated or packed on its own. The store was shuffled when it was
built; here each epoch permutes the blocks, and the documents inside each block, by keys of (stream, partition, epoch,
block). A stream of several partitions permutes blocks only inside chunks of 16 neighbours, so that a partition walks
through its shards: a node whose cache holds half of its shards fetches each 1.15 times per epoch, where permuted chunks
took 1.6 and permuted blocks any number. Only the last few orders are kept: a jump to pack 1e9 of 2 M documents costs
1.5 ms (SplitStream) or 9 ms (WholeStream), the next pack 10 us.

`SplitStream` (speech, text) is one token sequence over all epochs: pack j is the window [jS, (j+1)S), and epoch e
begins at token e * T, in the middle of a pack. So nothing is padded or dropped at the end of an epoch, and a read
position is a plain count of tokens, which stays valid when the sequence length or the weights change between phases.

`WholeStream` (paired speech) packs best fit inside each block. The number of packs of a block depends on its lengths
alone, so epoch e begins at pack e * P. Which of two equally long samples goes where, and the order of the packs, are
permuted in every epoch. If a phase with other packing rules ended inside a block, the unread remainder of the block is
packed first, as a block of its own; the epoch's other blocks follow.

Shapes: N documents of a block, G blocks of the partition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.order import permutation
from titan_speech.data.packing import (
    Blocks,
    OrderedBlock,
    PackCounts,
    PackingRules,
    Piece,
    documents_in_window,
    pack_block,
    start_of,
)

BLOCKS_PER_CHUNK = 16
"""About a shard of 128 MB."""
NUM_CACHED_BLOCKS = 2
NUM_CACHED_EPOCHS = 2


class ReadPacks(NamedTuple):
    """The first `num_packs` packs that a block fills under some rules: read."""

    rules: PackingRules
    num_packs: int


@dataclass(frozen=True)
class Cursor:
    """Read position in a partition: a count of tokens for a SplitStream, a block for a WholeStream."""

    token: int = 0
    epoch: int = 0
    num_blocks: int = 0
    """Blocks of the epoch's order that are read completely."""
    read: tuple[ReadPacks, ...] = ()
    """What was read of the next block, by phases with different rules; each packed what the previous one left."""


START_CURSOR = Cursor()


class EpochOrder(NamedTuple):
    """Order of the partition's blocks in one epoch."""

    blocks: list[int]
    ends: list[int]
    """Where each block ends, in tokens or packs from the start of the epoch."""


class StreamPosition(NamedTuple):
    """A position of the endless sequence."""

    epoch: int
    num_before: int
    """Blocks of the epoch that come before."""
    block: int
    offset: int
    """Position inside the block."""
    num_left: int
    """Positions from there to the end of the block."""


class PartitionStream(ABC):
    """Finds the block that holds a position of the endless sequence; the unit of positions is the subclass's."""

    def __init__(
        self,
        key: str,
        blocks: Blocks,
        block_range: range,
        counts: Sequence[PackCounts],
        rules: PackingRules,
        start: Cursor = START_CURSOR,
    ) -> None:
        """
        Args:
            key: seed, source, language and partition: what the permutations depend on.
            blocks: of the whole stream.
            block_range: numbers of the partition's blocks.
            counts: of the partition's blocks, under `rules`.
            rules: how packs are filled from `start` on.
            start: read position of the pack that `pieces(0)` returns.
        """
        self.key, self.blocks, self.block_range = key, blocks, block_range
        self.counts, self.rules, self.start = counts, rules, start
        self.sizes_G = np.array([self._size(count) for count in counts], np.int64)
        self.epoch_size = int(self.sizes_G.sum())
        self.epoch_order = lru_cache(NUM_CACHED_EPOCHS)(self._epoch_order)
        self.ordered_block = lru_cache(NUM_CACHED_BLOCKS)(self._ordered_block)

    def __reduce__(self) -> tuple[type[PartitionStream], tuple[Any, ...]]:
        """The caches are not sent to worker processes."""
        return type(self), (self.key, self.blocks, self.block_range, self.counts, self.rules, self.start)

    @abstractmethod
    def pieces(self, j: int) -> list[Piece]:
        """What the j-th pack from the start holds, in order."""

    @abstractmethod
    def cursor(self, num_packs: int) -> Cursor:
        """The read position after `num_packs` packs from the start."""

    @staticmethod
    @abstractmethod
    def _size(counts: PackCounts) -> int:
        """Positions of a block."""

    @abstractmethod
    def _ordered_block(self, epoch: int, k: int, read: tuple[ReadPacks, ...] = ()) -> OrderedBlock:
        """What is left of block k after `read`, in the order of the epoch."""

    def locate(self, position: int) -> StreamPosition:
        epoch, offset = divmod(position, self.epoch_size)
        blocks, ends = self.epoch_order(epoch)
        i = bisect_right(ends, offset)
        return StreamPosition(epoch, i, blocks[i], offset - (ends[i - 1] if i else 0), ends[i] - offset)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        key, num_blocks = f"{self.key}/groups/{epoch}", len(self.block_range)
        is_whole_stream = num_blocks == self.blocks.num_blocks  # which has few shards
        order_G = permutation(key, num_blocks) if is_whole_stream else local_shuffle(key, num_blocks)
        return EpochOrder((order_G + self.block_range.start).tolist(), np.cumsum(self.sizes_G[order_G]).tolist())


def local_shuffle(key: str, n: int) -> NDArray[np.int64]:
    """Permutation of range(n) inside each chunk of neighbours; the chunks stay in order."""
    order_G = permutation(key, n)
    return order_G[np.argsort(order_G // BLOCKS_PER_CHUNK, kind="stable")]


class SplitStream(PartitionStream):
    """Concatenated documents; a position is a token."""

    @staticmethod
    def _size(counts: PackCounts) -> int:
        return counts.num_tokens

    def _ordered_block(self, epoch: int, k: int, read: tuple[ReadPacks, ...] = ()) -> OrderedBlock:
        assert not read, "the read position of a SplitStream is a token"
        block = self.blocks.block(k)
        block = block.select(permutation(f"{self.key}/documents/{epoch}/{k}", len(block.length_N)))
        return OrderedBlock.of(block, np.cumsum(block.length_N))

    def pieces(self, j: int) -> list[Piece]:
        missing = self.rules.seq_len
        token = self.start.token + j * missing
        pieces: list[Piece] = []
        while missing:
            position = self.locate(token)
            block = self.ordered_block(position.epoch, position.block)
            taken = min(position.num_left, missing)
            pieces += _window(block, position.offset, position.offset + taken)
            token, missing = token + taken, missing - taken
        return pieces

    def cursor(self, num_packs: int) -> Cursor:
        return Cursor(token=self.start.token + num_packs * self.rules.seq_len)


def _window(block: OrderedBlock, start: int, stop: int) -> list[Piece]:
    """The pieces of documents in tokens [start, stop) of the block."""
    first, end = documents_in_window(block.ends, start, stop)
    pieces = block.pieces(first, end)
    part, document, begin, length = pieces[-1]
    pieces[-1] = Piece(part, document, begin, length - (block.ends[end - 1] - stop))
    part, document, _, end_of_first = pieces[0]
    pieces[0] = Piece(part, document, start - start_of(block.ends, first), end_of_first)
    return pieces


class _Remainder(NamedTuple):
    """What an earlier phase left of the block in which it ended, and where the stream continues after it."""

    num_packs: int
    """Packs that the remainder of the block fills; they come first."""
    num_skipped: int
    """Packs of the same rules that were read already."""
    read: tuple[ReadPacks, ...]
    """What was read under other rules."""
    origin: int
    """Pack j >= num_packs is position origin + j of the endless sequence."""


class WholeStream(PartitionStream):
    """Whole documents, best fit inside each block; a position is a pack.

    A sample above the sequence length is left out, or with `rules.split` split into pieces that are packed like
    samples.
    """

    @staticmethod
    def _size(counts: PackCounts) -> int:
        return int(counts.num_packs)

    @cached_property
    def remainder(self) -> _Remainder:
        """Where the first pack begins. Computed at the first use, since it may pack a block."""
        epoch, index, read = self.start.epoch, self.start.num_blocks, self.start.read
        order = self.epoch_order(epoch)
        begin = epoch * self.epoch_size + start_of(order.ends, index)
        num_skipped = 0
        if read and read[-1].rules == self.rules:
            *earlier, last = read
            read, num_skipped = tuple(earlier), last.num_packs
        if not read:
            return _Remainder(0, 0, (), begin + num_skipped)
        k = order.blocks[index]
        num_packs = len(self.ordered_block(epoch, k, read).ends) - num_skipped
        return _Remainder(num_packs, num_skipped, read, epoch * self.epoch_size + order.ends[index] - num_packs)

    def _ordered_block(self, epoch: int, k: int, read: tuple[ReadPacks, ...] = ()) -> OrderedBlock:
        left = self.blocks.block(k)
        for depth, (rules, num_packs) in enumerate(read):
            _, left = pack_block(left, self._block_key(epoch, k, depth), rules, num_packs)
        items, _ = pack_block(left, self._block_key(epoch, k, len(read)), self.rules)
        return OrderedBlock.of(*items)

    def _block_key(self, epoch: int, k: int, depth: int) -> str:
        return f"{self.key}/{epoch}/{k}/{depth}"

    def pieces(self, j: int) -> list[Piece]:
        remainder = self.remainder
        if j < remainder.num_packs:
            epoch, pack = self.start.epoch, remainder.num_skipped + j
            k, read = self.epoch_order(epoch).blocks[self.start.num_blocks], remainder.read
        else:
            epoch, _, k, pack, _ = self.locate(remainder.origin + j)
            read = ()
        block = self.ordered_block(epoch, k, read)
        return block.pieces(start_of(block.ends, pack), block.ends[pack])

    def cursor(self, num_packs: int) -> Cursor:
        if num_packs == 0:
            return self.start
        remainder = self.remainder
        if num_packs < remainder.num_packs:
            read = ReadPacks(self.rules, remainder.num_skipped + num_packs)
            return replace(self.start, read=(*remainder.read, read))
        position = self.locate(remainder.origin + num_packs)
        read = (ReadPacks(self.rules, position.offset),) if position.offset else ()
        return Cursor(epoch=position.epoch, num_blocks=position.num_before, read=read)
