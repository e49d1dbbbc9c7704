"""A stream as lanes that are read in turn, so that many nodes can share its shards without each needing all of them.

In: the groups of a stream and what they hold. Out: `LanedStream`: the j-th pack of the stream is the next pack of lane
`lane(j)`, and `Places`: where in the order of lanes each slot lies, by which slots.py deals slots to ranks.

    lane 0            lane 1            ...   lane L-1          L = 1, 2, 4 .. 64, by the stream's size
    groups 0 .. G/L   G/L .. 2G/L             .. G              neighbours, so neighbouring shards
    pack j = pack j div L of lane reversed(j mod L)             reversed: the bits of the number, 0 4 2 6 1 5 3 7

A lane is a stream of its own with endless epochs. L depends on the stream's data alone, never on ranks. Lanes have
equal numbers of groups, or where lengths drift are cut at the group nearest to equal shares of the tokens: they differ
by a group of at least 64, 1.6 %, at the most, and by 0.6 % with 64 lanes of lognormal lengths. As each lane gives every
L-th pack, after e epochs of the stream the fastest lane is ahead of the slowest by that part of e epochs; nothing is
lost or read twice in any lane's own epoch.

Reversed, any run of packs lies evenly over all lanes, so the slots of a step, sorted by lane, put rank r of W at about
lanes [rL/W, (r+1)L/W) at every W. The lanes of each stream are shifted by a part of a lane, so that streams of one or
two lanes do not all fall to the same ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.order import SlotOrder
from titan_speech.data.packing import MAX_PARTITIONS, Blocks, PackCounts, PackingRules, Piece
from titan_speech.data.streams import START, Cursor, SplitStream, WholeStream

PLACE_BITS = 20
GOLDEN = 648_056  # of 2^20: multiples of it lie evenly
MIN_PARTITION_SHARE = 0.5
"""Of its share of the groups: a lane with fewer means groups that can hardly be read; then there are fewer lanes."""

PartitionStream = SplitStream | WholeStream
REVERSED = [int(f"{i:06b}"[::-1], 2) for i in range(MAX_PARTITIONS)]


def partition_of_turn(turn: int, num_lanes: int) -> int:
    """Which lane the `turn`-th pack of a stream is taken from."""
    return REVERSED[turn % num_lanes] * num_lanes // MAX_PARTITIONS


@dataclass(frozen=True)
class StreamCursor:
    """Where reading of a stream stands."""

    turn: int = 0
    """Packs taken so far."""
    lanes: tuple[Cursor, ...] = ()
    """One for each lane; none at the start."""


class PartitionedStream:
    """What the plan mixes: one source in one language."""

    def __init__(
        self,
        key: str,
        groups: Blocks,
        rules: PackingRules,
        counts: Sequence[PackCounts],
        kind: type[PartitionStream],
        start: StreamCursor | None = None,
    ) -> None:
        """`counts` are those of all groups under the rules."""
        self.key, self.groups, self.rules, self.kind = key, groups, rules, kind
        self.group_counts = list(counts)
        self.counts = sum(counts, PackCounts())
        self.lanes = cut_into_partitions(groups, counts)
        self.start = start or StreamCursor()
        self._lanes: dict[int, PartitionStream] = {}
        numbers = [partition_of_turn(turn, self.num_lanes) for turn in range(self.num_lanes)]
        self._turns = [(number, self._num_taken_before(number)) for number in numbers]
        """Of each turn of a round its lane, and what was taken of that before the start."""

    @property
    def num_lanes(self) -> int:
        return len(self.lanes)

    def lane(self, number: int) -> PartitionStream:
        """Made when first needed: a rank reads few of them."""
        if number not in self._lanes:
            groups = self.lanes[number]
            start = self.start.lanes[number] if self.start.lanes else START
            counts = self.group_counts[groups.start : groups.stop]
            self._lanes[number] = self.kind(f"{self.key}/{number}", self.groups, groups, counts, self.rules, start)
        return self._lanes[number]

    def pieces(self, j: int) -> list[Piece]:
        """What the j-th pack holds, in order."""
        round_, turn = divmod(self.start.turn + j, len(self._turns))
        number, num_before = self._turns[turn]
        return (self._lanes.get(number) or self.lane(number)).pieces(round_ - num_before)

    def cursor(self, num_packs: int) -> StreamCursor:
        """Where reading stands after that many packs."""
        turn = self.start.turn + num_packs
        cursors = (
            self.lane(number).cursor(num_taken(turn, number, self.num_lanes) - self._num_taken_before(number))
            for number in range(self.num_lanes)
        )
        return StreamCursor(turn, tuple(cursors))

    def started_at(self, key: str, start: StreamCursor) -> PartitionedStream:
        """The same stream from another position of the order that `key` gives."""
        return PartitionedStream(key, self.groups, self.rules, self.group_counts, self.kind, start)

    def _num_taken_before(self, number: int) -> int:
        return num_taken(self.start.turn, number, self.num_lanes)


def num_taken(num_turns: int, number: int, num_lanes: int) -> int:
    """How many of the first turns are of a lane."""
    position = partition_of_turn(number, num_lanes)  # reversal is its own inverse
    return num_turns // num_lanes + (position < num_turns % num_lanes)


def cut_into_partitions(groups: Blocks, counts: Sequence[PackCounts]) -> list[range]:
    """Runs of groups with equal shares of the tokens; fewer than the groups allow where a run would have few groups."""
    num_tokens_G = np.cumsum([0] + [count.num_usable_tokens for count in counts])
    num_lanes = groups.max_lanes
    while True:
        by_groups = np.arange(num_lanes + 1) * groups.num_groups // num_lanes
        cuts = (by_groups, _borders_by_tokens(num_tokens_G, num_lanes))
        borders = min(cuts, key=lambda borders: np.ptp(np.diff(num_tokens_G[borders])))
        if num_lanes == 1 or np.diff(borders).min() >= MIN_PARTITION_SHARE * groups.num_groups / num_lanes:
            return [range(*pair) for pair in pairwise(borders.tolist())]
        num_lanes //= 2


def _borders_by_tokens(num_tokens_G: NDArray[np.int64], num_lanes: int) -> NDArray[np.int64]:
    """The group borders nearest to equal shares."""
    wanted = num_tokens_G[-1] * np.arange(1, num_lanes) // num_lanes
    before = np.searchsorted(num_tokens_G, wanted, side="right") - 1
    before += num_tokens_G[before + 1] - wanted < wanted - num_tokens_G[before]
    return np.concatenate([[0], before, [len(num_tokens_G) - 1]])


@dataclass(frozen=True, eq=False)
class PartitionPlaces:
    """Where each slot lies in the order of lanes: what keeps a rank with the same shards from step to step."""

    order: SlotOrder
    num_lanes_N: NDArray[np.int64]
    turn_N: NDArray[np.int64]
    """Packs that were taken of each stream before slot 0."""
    first_slot: int = 0

    @classmethod
    def of(cls, order: SlotOrder, streams: Sequence[PartitionedStream], first_slot: int = 0) -> PartitionPlaces:
        num_lanes_N = np.array([stream.num_lanes for stream in streams])
        return cls(order, num_lanes_N, np.array([stream.start.turn for stream in streams]), first_slot)

    def of_slots(self, start: int, count: int) -> NDArray[np.int64]:
        """In 0 .. 2^20 for each slot: (lane + shift of the stream) / lanes."""
        cycle_P, i_P = np.divmod(np.arange(start, start + count) - self.first_slot, len(self.order.stream_M))
        stream_P = self.order.stream_M[i_P]
        j_P = cycle_P * np.array(self.order.quotas)[stream_P] + self.order.rank_M[i_P]
        num_lanes_P = self.num_lanes_N[stream_P]
        turn_P = (self.turn_N[stream_P] + j_P) % num_lanes_P
        shift_P = stream_P.astype(np.int64) * GOLDEN % (1 << PLACE_BITS)
        return (np.array(REVERSED)[turn_P] << (PLACE_BITS - 6)) + shift_P // num_lanes_P


CountsOf = Callable[[Blocks, PackingRules], Sequence[PackCounts]]
"""What each group holds under rules, for streams of one kind."""


def continued(
    stream: PartitionedStream, key: str, legs: Sequence[tuple[PackingRules, int]], counts_of: CountsOf
) -> PartitionedStream:
    """The stream after legs of (rules, packs); groups are counted again where rules of the past pack whole samples."""
    cursor = StreamCursor()
    for rules, num_packs in legs:
        is_counted = rules == stream.rules or stream.kind is SplitStream
        counts = stream.group_counts if is_counted else counts_of(stream.groups, rules)
        cursor = PartitionedStream(key, stream.groups, rules, counts, stream.kind, cursor).cursor(num_packs)
    return stream.started_at(key, cursor)


PlacesOf = Callable[[int, int], NDArray[np.int64]]
"""(first slot, number of slots) -> the place of each."""
