"""A stream as shuffle partitions that are read in turn, so that many nodes share its shards and none needs all of them.

In: the blocks of a stream and what they hold. Out: `PartitionedStream`: the j-th pack of the stream is the next pack of
partition `partition_of_turn(j)`; and `SlotLocality`: a sort key per slot by which slots.py assigns slots to ranks.

    partition 0       partition 1     ...   partition L-1       L = 1, 2, 4 .. 64, by the stream's size
    blocks 0 .. G/L   G/L .. 2G/L           .. G                neighbours, so neighbouring shards
    pack j = pack j div L of partition reversed(j mod L)        reversed: the bits of the number, 0 4 2 6 1 5 3 7

A partition is a stream of its own with endless epochs. L depends on the stream's data alone, never on ranks. Partitions
have equal numbers of blocks or, where lengths vary, borders at the blocks nearest to equal shares of the tokens: they
differ by one block of at least 64, 1.6 %, at most, and by 0.6 % with 64 partitions of lognormal lengths. As each
partition gives every L-th pack, after e epochs of the stream the fastest partition is ahead of the slowest by that part
of e epochs; nothing is lost or read twice in any partition's own epoch.

Because of the reversal, any run of packs is spread evenly over all partitions. So the slots of a step, sorted by
partition, give rank r of W about the partitions [rL/W, (r+1)L/W) at every W. The partitions of each stream are shifted
by a part of a partition, so that streams of one or two partitions are not all assigned to the same ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.order import SlotOrder
from titan_speech.data.pack_counts import count_packs
from titan_speech.data.packing import MAX_PARTITIONS, Blocks, PackCounts, PackingRules, Piece
from titan_speech.data.streams import START_CURSOR, Cursor, PartitionStream, SplitStream

LOCALITY_BITS = 20
GOLDEN_STEP = 648_056  # golden ratio of 2^20: its multiples are spread evenly
MIN_PARTITION_SHARE = 0.5
"""Smallest number of blocks of a partition, as a part of the mean. Fewer means that many blocks can hardly be read as
the task; then there are fewer partitions."""
REVERSED = [int(f"{i:06b}"[::-1], 2) for i in range(MAX_PARTITIONS)]


def partition_of_turn(turn: int, num_partitions: int) -> int:
    """The partition from which the `turn`-th pack of a stream is taken."""
    return REVERSED[turn % num_partitions] * num_partitions // MAX_PARTITIONS


def num_taken(num_turns: int, number: int, num_partitions: int) -> int:
    """How many of the first `num_turns` packs are taken from partition `number`."""
    position = partition_of_turn(number, num_partitions)  # reversal is its own inverse
    return num_turns // num_partitions + (position < num_turns % num_partitions)


@dataclass(frozen=True)
class StreamCursor:
    """Read position of a stream."""

    turn: int = 0
    """Packs taken so far."""
    partitions: tuple[Cursor, ...] = ()
    """One per partition; empty at the start."""


class PartitionedStream:
    """What the plan mixes: one source in one language."""

    def __init__(
        self,
        key: str,
        blocks: Blocks,
        rules: PackingRules,
        counts: Sequence[PackCounts],
        stream_type: type[PartitionStream],
        start: StreamCursor | None = None,
    ) -> None:
        """
        Args:
            key: seed, source and language: what the permutations depend on.
            blocks: the stream's documents.
            rules: how packs are filled.
            counts: of all blocks under the rules.
            stream_type: how each partition is read.
            start: read position of pack 0; None is the beginning.
        """
        self.key, self.blocks, self.rules, self.stream_type = key, blocks, rules, stream_type
        self.block_counts = list(counts)
        self.counts = sum(counts, PackCounts())
        self.partitions = cut_into_partitions(blocks, counts)
        """Numbers of each partition's blocks."""
        self.start = start or StreamCursor()
        self._partitions: dict[int, PartitionStream] = {}
        numbers = [partition_of_turn(turn, self.num_partitions) for turn in range(self.num_partitions)]
        self._turns = [(number, self._num_taken_before(number)) for number in numbers]
        """For each turn of a round its partition, and the packs taken from that partition before the start."""

    @property
    def num_partitions(self) -> int:
        return len(self.partitions)

    def partition(self, number: int) -> PartitionStream:
        """Built at the first use: a rank reads few of them."""
        if number not in self._partitions:
            blocks = self.partitions[number]
            start = self.start.partitions[number] if self.start.partitions else START_CURSOR
            counts = self.block_counts[blocks.start : blocks.stop]
            key = f"{self.key}/{number}"
            self._partitions[number] = self.stream_type(key, self.blocks, blocks, counts, self.rules, start)
        return self._partitions[number]

    def pieces(self, j: int) -> list[Piece]:
        """What the j-th pack holds, in order."""
        round_, turn = divmod(self.start.turn + j, len(self._turns))
        number, num_before = self._turns[turn]
        return (self._partitions.get(number) or self.partition(number)).pieces(round_ - num_before)

    def cursor(self, num_packs: int) -> StreamCursor:
        """The read position after `num_packs` packs."""
        turn = self.start.turn + num_packs
        cursors = (
            self.partition(number).cursor(num_taken(turn, number, self.num_partitions) - self._num_taken_before(number))
            for number in range(self.num_partitions)
        )
        return StreamCursor(turn, tuple(cursors))

    def _num_taken_before(self, number: int) -> int:
        return num_taken(self.start.turn, number, self.num_partitions)


def cut_into_partitions(blocks: Blocks, counts: Sequence[PackCounts]) -> list[range]:
    """Runs of blocks with equal shares of the tokens: as many as allowed, fewer if a run would have too few blocks."""
    num_tokens_G = np.cumsum([0] + [count.num_usable_tokens for count in counts])
    num_partitions = blocks.max_partitions
    while True:
        by_blocks = np.arange(num_partitions + 1) * blocks.num_blocks // num_partitions
        cuts = (by_blocks, _borders_by_tokens(num_tokens_G, num_partitions))
        borders = min(cuts, key=lambda borders: np.ptp(np.diff(num_tokens_G[borders])))
        min_blocks = MIN_PARTITION_SHARE * blocks.num_blocks / num_partitions
        if num_partitions == 1 or np.diff(borders).min() >= min_blocks:
            return [range(*pair) for pair in pairwise(borders.tolist())]
        num_partitions //= 2


def _borders_by_tokens(num_tokens_G: NDArray[np.int64], num_partitions: int) -> NDArray[np.int64]:
    """The borders between blocks that are nearest to equal shares of the tokens."""
    wanted = num_tokens_G[-1] * np.arange(1, num_partitions) // num_partitions
    before = np.searchsorted(num_tokens_G, wanted, side="right") - 1
    before += num_tokens_G[before + 1] - wanted < wanted - num_tokens_G[before]
    return np.concatenate([[0], before, [len(num_tokens_G) - 1]])


def resume_stream(
    stream: PartitionedStream, key: str, segments: Iterable[tuple[PackingRules, int]]
) -> PartitionedStream:
    """The stream after what earlier phases read of it.

    Args:
        stream: under the rules of this phase.
        key: what the permutations of its order have depended on since its first pack.
        segments: (rules, packs) that were read, oldest first.
    """
    cursor = StreamCursor()
    for rules, num_packs in segments:
        is_counted = rules == stream.rules or stream.stream_type is SplitStream  # whole samples are packed differently
        counts = stream.block_counts if is_counted else count_packs(stream.blocks, rules, whole=True)
        cursor = PartitionedStream(key, stream.blocks, rules, counts, stream.stream_type, cursor).cursor(num_packs)
    return PartitionedStream(key, stream.blocks, stream.rules, stream.block_counts, stream.stream_type, cursor)


LocalityKeysOf = Callable[[int, int], NDArray[np.int64]]
"""(first slot, number of slots) -> the locality key of each."""


@dataclass(frozen=True, eq=False)
class SlotLocality:
    """A sort key per slot: slots with neighbouring keys read neighbouring shards, at every step."""

    order: SlotOrder
    num_partitions_N: NDArray[np.int64]
    turn_N: NDArray[np.int64]
    """Packs that were taken of each stream before slot 0."""
    first_slot: int = 0

    @classmethod
    def of(cls, order: SlotOrder, streams: Sequence[PartitionedStream], first_slot: int = 0) -> SlotLocality:
        num_partitions_N = np.array([stream.num_partitions for stream in streams])
        return cls(order, num_partitions_N, np.array([stream.start.turn for stream in streams]), first_slot)

    def keys(self, start: int, count: int) -> NDArray[np.int64]:
        """In 0 .. 2^20 for each slot from `start` on: (partition + shift of the stream) / partitions."""
        cycle_P, i_P = np.divmod(np.arange(start, start + count) - self.first_slot, len(self.order.stream_M))
        stream_P = self.order.stream_M[i_P]
        j_P = cycle_P * np.array(self.order.quotas)[stream_P] + self.order.rank_M[i_P]
        num_partitions_P = self.num_partitions_N[stream_P]
        turn_P = (self.turn_N[stream_P] + j_P) % num_partitions_P
        shift_P = stream_P.astype(np.int64) * GOLDEN_STEP % (1 << LOCALITY_BITS)
        return (np.array(REVERSED)[turn_P] << (LOCALITY_BITS - 6)) + shift_P // num_partitions_P
