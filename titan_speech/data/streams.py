"""One lane of a stream as an endless sequence of packs, any of which is found without its predecessors.

In: a run of the stream's groups, and where to begin. Out: `pieces(j)`: what the j-th pack from there holds, and
`cursor(n)`: where reading stands after n packs, from which a later phase goes on with another sequence length.

Documents form fixed groups (groups.py), each laid end to end or packed on its own (group_packs.py). The store was
shuffled when it was built; here each epoch permutes the groups, and the documents inside each, by keys of (stream,
lane, epoch, group). One of several lanes walks through its shards and permutes groups only inside blocks of 16
neighbours: a node whose cache holds half of its shards then fetches each 1.15 times an epoch, where permuted blocks
took 1.6 and permuted groups any number. Only the orders of the last groups are held: a jump to pack 1e9 of 2 M
documents costs 1.5 ms (SplitStream) or 9 ms (WholeStream), the next pack 10 us.

`SplitStream` (speech, text) is one token sequence over all epochs: pack j is the window [jS, (j+1)S), and epoch e
begins at token e * T, wherever in a pack that is. The design page had every epoch begin with a pack of its own; without
that, nothing is padded or dropped at an epoch's end, and a position is a plain count of tokens, which carries over when
the sequence length or the weights change between phases.

`WholeStream` (paired speech) packs best-fit inside each group. The number of packs of a group depends on its lengths
alone, so epoch e begins at pack e * P. Which of two equally long samples goes where, and the order of the packs, are
permuted anew in every epoch. Where a phase with other packing rules ended inside a group, what it left unread of the
group is packed first, as a group of its own; the epoch's other groups follow.

Shapes: N documents of a group, G groups of the lane.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.order import permutation
from titan_speech.data.packing import Blocks, OrderedBlock, PackCounts, PackingRules, Piece, begin_of, pack_block, under

BLOCKS_PER_CHUNK = 16
"""Groups of a block: about a shard of 128 MB."""
NUM_CACHED_BLOCKS = 2
NUM_CACHED_EPOCHS = 2


class Cut(NamedTuple):
    """The first packs of a group under some rules: read."""

    rules: PackingRules
    num_packs: int


@dataclass(frozen=True)
class Cursor:
    """Where reading of a lane stands. A SplitStream's is a count of tokens; a WholeStream's names a group."""

    token: int = 0
    epoch: int = 0
    num_groups: int = 0
    """Groups of the epoch's order that are done."""
    cuts: tuple[Cut, ...] = ()
    """What was read of the group after them, by phases with different rules; each packed what the one before left."""


START = Cursor()


class EpochOrder(NamedTuple):
    """Order of the lane's groups in one epoch."""

    groups: list[int]
    ends: list[int]
    """Where each group ends, in tokens or packs from the start of the epoch."""


class StreamPosition(NamedTuple):
    """A position of the endless sequence."""

    epoch: int
    num_before: int
    """How many groups of the epoch come before."""
    group: int
    offset: int
    """Position inside the group."""
    num_left: int
    """Positions of the group from there on."""


class _GroupedStream:
    """Finds the group that holds a position of the endless sequence; `sizes_G` in the unit of positions."""

    def __init__(self, key: str, groups: Blocks, lane: range, sizes_G: NDArray[np.int64]) -> None:
        self.key, self.groups, self.lane, self.sizes_G = key, groups, lane, sizes_G
        self.epoch_size = int(sizes_G.sum())
        self._build_caches()

    def _build_caches(self) -> None:
        self.epoch_order = lru_cache(NUM_CACHED_EPOCHS)(self._epoch_order)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        order_G = self._permutation(f"{self.key}/groups/{epoch}")
        return EpochOrder((order_G + self.lane.start).tolist(), np.cumsum(self.sizes_G[order_G]).tolist())

    def _permutation(self, key: str) -> NDArray[np.int64]:
        """A stream of one lane has few shards and permutes its groups; a lane of several walks through its shards."""
        num_groups = len(self.lane)
        return permutation(key, num_groups) if num_groups == self.groups.num_groups else local_shuffle(key, num_groups)

    def locate(self, position: int) -> StreamPosition:
        epoch, offset = divmod(position, self.epoch_size)
        groups, ends = self.epoch_order(epoch)
        i = bisect_right(ends, offset)
        return StreamPosition(epoch, i, groups[i], offset - (ends[i - 1] if i else 0), ends[i] - offset)

    def __getstate__(self) -> dict[str, object]:
        """Caches stay behind when the stream goes to a worker process."""
        return {name: value for name, value in vars(self).items() if not hasattr(value, "cache_clear")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._build_caches()


def local_shuffle(key: str, n: int) -> NDArray[np.int64]:
    """Permutation of range(n) that permutes the inside of each block of neighbours; the blocks stay in order."""
    order_G = permutation(key, n)
    return order_G[np.argsort(order_G // BLOCKS_PER_CHUNK, kind="stable")]


class SplitStream(_GroupedStream):
    """Documents end to end; position = token."""

    def __init__(
        self,
        key: str,
        groups: Blocks,
        lane: range,
        counts: Sequence[PackCounts],
        rules: PackingRules,
        start: Cursor = START,
    ) -> None:
        """`counts` are those of the lane's groups."""
        self.seq_len, self.start = rules.seq_len, start
        super().__init__(key, groups, lane, np.array([count.num_tokens for count in counts], np.int64))

    def _build_caches(self) -> None:
        super()._build_caches()
        self.ordered_group = lru_cache(NUM_CACHED_BLOCKS)(self._ordered_group)

    def _ordered_group(self, epoch: int, k: int) -> OrderedBlock:
        group = self.groups.group(k)
        group = group.taken(permutation(f"{self.key}/documents/{epoch}/{k}", len(group.length_N)))
        return OrderedBlock.of(group, np.cumsum(group.length_N))

    def pieces(self, j: int) -> list[Piece]:
        position, missing = self.start.token + j * self.seq_len, self.seq_len
        pieces: list[Piece] = []
        while missing:
            place = self.locate(position)
            group = self.ordered_group(place.epoch, place.group)
            taken = min(place.num_left, missing)
            pieces += _window(group, place.offset, place.offset + taken)
            position, missing = position + taken, missing - taken
        return pieces

    def cursor(self, num_packs: int) -> Cursor:
        """Where reading stands after that many packs."""
        return Cursor(token=self.start.token + num_packs * self.seq_len)


def _window(group: OrderedBlock, start: int, stop: int) -> list[Piece]:
    """The documents under tokens [start, stop) of the group."""
    first, end = under(group.ends, start, stop)
    pieces = group.pieces(first, end)
    part, document, begin, length = pieces[-1]
    pieces[-1] = Piece(part, document, begin, length - (group.ends[end - 1] - stop))
    part, document, _, end_of_first = pieces[0]
    pieces[0] = Piece(part, document, start - begin_of(group.ends, first), end_of_first)
    return pieces


class _Rest(NamedTuple):
    """What an earlier phase left of the group that it ended in, and how to go on after it."""

    num_packs: int
    """Packs that the rest of the group fills; they come first."""
    skipped: int
    """Packs of the same rules that were read already."""
    cuts: tuple[Cut, ...]
    """What was read under other rules."""
    origin: int
    """Pack j >= num_packs is position origin + j of the endless sequence."""


class WholeStream(_GroupedStream):
    """Whole documents, best-fit inside each group; position = pack.

    A sample above the sequence length is left out, or with `split` cut into pieces that are packed like samples.
    """

    def __init__(
        self,
        key: str,
        groups: Blocks,
        lane: range,
        counts: Sequence[PackCounts],
        rules: PackingRules,
        start: Cursor = START,
    ) -> None:
        """`counts` are those of the lane's groups under these rules."""
        self.rules, self.start = rules, start
        super().__init__(key, groups, lane, np.array([int(count.num_packs) for count in counts], np.int64))

    def _build_caches(self) -> None:
        super()._build_caches()
        self.ordered_group = lru_cache(NUM_CACHED_BLOCKS)(self._ordered_group)

    @cached_property
    def rest(self) -> _Rest:
        """Where the first pack lies; found when it is first needed, since it may pack a group anew."""
        epoch, index, cuts = self.start.epoch, self.start.num_groups, self.start.cuts
        order = self.epoch_order(epoch)
        begin = epoch * self.epoch_size + begin_of(order.ends, index)
        skipped = 0
        if cuts and cuts[-1].rules == self.rules:
            *earlier, last = cuts
            cuts, skipped = tuple(earlier), last.num_packs
        if not cuts:
            return _Rest(0, 0, (), begin + skipped)
        k = order.groups[index]
        num_packs = len(self.ordered_group(epoch, k, cuts).ends) - skipped
        return _Rest(num_packs, skipped, cuts, epoch * self.epoch_size + order.ends[index] - num_packs)

    def _ordered_group(self, epoch: int, k: int, cuts: tuple[Cut, ...]) -> OrderedBlock:
        """What the cuts leave of a group, packed."""
        left = self.groups.group(k)
        for depth, (rules, num_packs) in enumerate(cuts):
            _, left = pack_block(left, self._group_key(epoch, k, depth), rules, num_packs)
        items, _ = pack_block(left, self._group_key(epoch, k, len(cuts)), self.rules)
        return OrderedBlock.of(*items)

    def _group_key(self, epoch: int, k: int, depth: int) -> str:
        return f"{self.key}/{epoch}/{k}/{depth}"

    def pieces(self, j: int) -> list[Piece]:
        rest = self.rest
        if j < rest.num_packs:
            epoch, pack = self.start.epoch, rest.skipped + j
            k, cuts = self.epoch_order(epoch).groups[self.start.num_groups], rest.cuts
        else:
            epoch, _, k, pack, _ = self.locate(rest.origin + j)
            cuts = ()
        group = self.ordered_group(epoch, k, cuts)
        return group.pieces(begin_of(group.ends, pack), group.ends[pack])

    def cursor(self, num_packs: int) -> Cursor:
        """Where reading stands after that many packs."""
        if num_packs == 0:
            return self.start
        if num_packs < self.rest.num_packs:
            return replace(self.start, cuts=(*self.rest.cuts, Cut(self.rules, self.rest.skipped + num_packs)))
        place = self.locate(self.rest.origin + num_packs)
        cuts = (Cut(self.rules, place.offset),) if place.offset else ()
        return Cursor(epoch=place.epoch, num_groups=place.num_before, cuts=cuts)
