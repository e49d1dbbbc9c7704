"""One lane of a stream as an endless sequence of packs, any of which is found without its predecessors.

In: a run of the stream's groups, and where to begin. Out: `pieces(j)`: what the j-th pack from there holds, and
`cursor(n)`: where reading stands after n packs, from which a later phase goes on with another sequence length.

Documents form fixed groups (groups.py). The store was shuffled when it was built; here each epoch permutes the groups,
and the documents inside each, by keys of (stream, lane, epoch, group). One of several lanes walks through its shards
and permutes groups only inside blocks of 16 neighbours: a node whose cache holds half of its shards then fetches each
1.15 times an epoch, where permuted blocks took 1.6 and permuted groups any number. Only the orders of the last groups
are held: a jump to pack 1e9 of 2 M documents costs 1.5 ms (SplitStream) or 9 ms (WholeStream), the next pack 10 us.

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

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.groups import Group, Groups
from titan_speech.data.order import permutation
from titan_speech.data.packing import best_fit, under

BLOCK_GROUPS = 16
"""Groups of a block: about a shard of 128 MB."""
NUM_CACHED_GROUPS = 2
NUM_CACHED_EPOCHS = 2


class Piece(NamedTuple):
    """Tokens [start, stop) of one document."""

    part: int
    """Which of the stream's documents."""
    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Counts:
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

    def __add__(self, other: Counts) -> Counts:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        return Counts(**sums, longest=max(self.longest, other.longest))


_SUMMED = (
    *("num_documents", "num_tokens", "num_packs", "num_unusable", "num_dropped", "num_split", "num_usable_tokens"),
)


@dataclass(frozen=True)
class Rules:
    """How samples become packs."""

    seq_len: int
    split: bool = False
    """Whether a whole sample above the sequence length is cut into pieces; else it is left out."""


class Cut(NamedTuple):
    """The first packs of a group under some rules: read."""

    rules: Rules
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


class Place(NamedTuple):
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

    def __init__(self, key: str, groups: Groups, lane: range, sizes_G: NDArray[np.int64]) -> None:
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

    def locate(self, position: int) -> Place:
        epoch, offset = divmod(position, self.epoch_size)
        order = self.epoch_order(epoch)
        i = bisect_right(order.ends, offset)
        return Place(epoch, i, order.groups[i], offset - _begin(order.ends, i), order.ends[i] - offset)

    def __getstate__(self) -> dict[str, object]:
        """Caches stay behind when the stream goes to a worker process."""
        return {name: value for name, value in vars(self).items() if not hasattr(value, "cache_clear")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._build_caches()


def local_shuffle(key: str, n: int) -> NDArray[np.int64]:
    """Permutation of range(n) that permutes the inside of each block of neighbours; the blocks stay in order."""
    order_G = permutation(key, n)
    return order_G[np.argsort(order_G // BLOCK_GROUPS, kind="stable")]


class OrderedGroup(NamedTuple):
    """Documents of a group in the order of one epoch, as arrays of machine words, fast to index one by one."""

    parts: array[int]
    documents: array[int]
    starts: array[int]
    stops: array[int]
    ends: array[int]
    """Where each document ends in the group's tokens (SplitStream), or each pack in its documents (WholeStream)."""

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """Those numbered [begin, end), whole."""
        return list(map(Piece, *(column[begin:end] for column in self[:-1])))


class SplitStream(_GroupedStream):
    """Documents end to end; position = token."""

    def __init__(
        self, key: str, groups: Groups, lane: range, counts: Sequence[Counts], rules: Rules, start: Cursor = START
    ) -> None:
        """`counts` are those of the lane's groups."""
        self.seq_len, self.start = rules.seq_len, start
        super().__init__(key, groups, lane, np.array([count.num_tokens for count in counts], np.int64))

    def _build_caches(self) -> None:
        super()._build_caches()
        self.ordered_group = lru_cache(NUM_CACHED_GROUPS)(self._ordered_group)

    def _ordered_group(self, epoch: int, k: int) -> OrderedGroup:
        group = self.groups.group(k)
        group = group.taken(permutation(f"{self.key}/documents/{epoch}/{k}", len(group.length_N)))
        return _as_arrays(group, np.cumsum(group.length_N))

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


def _window(group: OrderedGroup, start: int, stop: int) -> list[Piece]:
    """The documents under tokens [start, stop) of the group."""
    first, end = under(group.ends, start, stop)
    pieces = group.pieces(first, end)
    part, document, begin, length = pieces[-1]
    pieces[-1] = Piece(part, document, begin, length - (group.ends[end - 1] - stop))
    part, document, _, end_of_first = pieces[0]
    pieces[0] = Piece(part, document, start - _begin(group.ends, first), end_of_first)
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
        self, key: str, groups: Groups, lane: range, counts: Sequence[Counts], rules: Rules, start: Cursor = START
    ) -> None:
        """`counts` are those of the lane's groups under these rules."""
        self.rules, self.start = rules, start
        super().__init__(key, groups, lane, np.array([int(count.num_packs) for count in counts], np.int64))

    def _build_caches(self) -> None:
        super()._build_caches()
        self.ordered_group = lru_cache(NUM_CACHED_GROUPS)(self._ordered_group)

    @cached_property
    def rest(self) -> _Rest:
        """Where the first pack lies; found when it is first needed, since it may pack a group anew."""
        epoch, index, cuts = self.start.epoch, self.start.num_groups, self.start.cuts
        order = self.epoch_order(epoch)
        begin = epoch * self.epoch_size + _begin(order.ends, index)
        skipped = 0
        if cuts and cuts[-1].rules == self.rules:
            *earlier, last = cuts
            cuts, skipped = tuple(earlier), last.num_packs
        if not cuts:
            return _Rest(0, 0, (), begin + skipped)
        k = order.groups[index]
        num_packs = len(self.ordered_group(epoch, k, cuts).ends) - skipped
        return _Rest(num_packs, skipped, cuts, epoch * self.epoch_size + order.ends[index] - num_packs)

    def _ordered_group(self, epoch: int, k: int, cuts: tuple[Cut, ...]) -> OrderedGroup:
        """What the cuts leave of a group, packed."""
        left = self.groups.group(k)
        for depth, (rules, num_packs) in enumerate(cuts):
            _, left = _packed(left, self._group_key(epoch, k, depth), rules, num_packs)
        items, _ = _packed(left, self._group_key(epoch, k, len(cuts)), self.rules)
        return _as_arrays(*items)

    def _group_key(self, epoch: int, k: int, depth: int) -> str:
        return f"{self.key}/{epoch}/{k}/{depth}"

    def pieces(self, j: int) -> list[Piece]:
        if j < self.rest.num_packs:
            epoch, pack = self.start.epoch, self.rest.skipped + j
            k, cuts = self.epoch_order(epoch).groups[self.start.num_groups], self.rest.cuts
        else:
            epoch, _, k, pack, _ = self.locate(self.rest.origin + j)
            cuts = ()
        group = self.ordered_group(epoch, k, cuts)
        return group.pieces(_begin(group.ends, pack), group.ends[pack])

    def cursor(self, num_packs: int) -> Cursor:
        """Where reading stands after that many packs."""
        if num_packs == 0:
            return self.start
        if num_packs < self.rest.num_packs:
            return replace(self.start, cuts=(*self.rest.cuts, Cut(self.rules, self.rest.skipped + num_packs)))
        place = self.locate(self.rest.origin + num_packs)
        cuts = (Cut(self.rules, place.offset),) if place.offset else ()
        return Cursor(epoch=place.epoch, num_groups=place.num_before, cuts=cuts)


def split_counts(groups: Groups, rules: Rules, run: range | None = None) -> list[Counts]:
    """What each group of the run (or all) holds for a SplitStream."""
    return [_split_counts(groups.group(k), groups.num_samples(k), rules) for k in run or range(groups.num_groups)]


def _split_counts(group: Group, num_samples: int, rules: Rules) -> Counts:
    num_tokens, num_documents = int(group.length_N.sum()), len(group.length_N)
    return Counts(
        num_documents=num_documents,
        num_tokens=num_tokens,
        num_packs=num_tokens / rules.seq_len,
        num_unusable=num_samples - num_documents,
        num_usable_tokens=num_tokens,
        longest=int(group.length_N.max(initial=0)),
    )


def whole_counts(groups: Groups, rules: Rules, run: range | None = None) -> list[Counts]:
    """What each group of the run (or all) holds for a WholeStream; packs every group once."""
    return [_whole_counts(groups.group(k), groups.num_samples(k), rules) for k in run or range(groups.num_groups)]


def _whole_counts(group: Group, num_samples: int, rules: Rules) -> Counts:
    items = fitting_items(group, rules)
    num_too_long = int((group.length_N > rules.seq_len).sum())
    return Counts(
        num_documents=int((items.start_N == 0).sum()),
        num_tokens=int(items.length_N.sum()),
        num_packs=best_fit(np.sort(items.length_N)[::-1].tolist(), rules.seq_len)[1],
        num_unusable=num_samples - len(group.length_N),
        num_dropped=0 if rules.split else num_too_long,
        num_split=num_too_long if rules.split else 0,
        num_usable_tokens=int(group.length_N.sum()),
        longest=int(group.length_N.max(initial=0)),
    )


def fitting_items(group: Group, rules: Rules) -> Group:
    """What is packed: items that fit, and with `split` the pieces of those that do not."""
    if not rules.split:
        return group.taken(np.flatnonzero(group.length_N <= rules.seq_len))
    num_pieces_N = -(-group.length_N // rules.seq_len)
    pieces = group.taken(np.repeat(np.arange(len(num_pieces_N)), num_pieces_N))
    first_N = np.cumsum(num_pieces_N) - num_pieces_N
    offset_N = (np.arange(len(pieces.length_N)) - np.repeat(first_N, num_pieces_N)) * rules.seq_len
    length_N = np.minimum(pieces.length_N - offset_N, rules.seq_len)
    return replace(pieces, start_N=pieces.start_N + offset_N, length_N=length_N)


def _packed(group: Group, key: str, rules: Rules, num_read: int = 0) -> tuple[tuple[Group, NDArray[np.int64]], Group]:
    """The group's items by pack with the end of each pack, and what is left of the group after `num_read` packs."""
    items = fitting_items(group, rules)
    items = items.taken(permutation(f"{key}/documents", len(items.length_N)))
    items = items.taken(np.argsort(-items.length_N, kind="stable"))
    packs, num_packs = best_fit(items.length_N.tolist(), rules.seq_len)
    pack_N = permutation(f"{key}/packs", num_packs)[packs]
    items = items.taken(np.argsort(pack_N, kind="stable"))
    end_N = np.cumsum(np.bincount(pack_N, minlength=num_packs))
    left = items.taken(np.arange(_begin(end_N, num_read), len(items.length_N))) if num_read else items
    if not rules.split:
        left = _joined(left, group.taken(np.flatnonzero(group.length_N > rules.seq_len)))
    return (items, end_N), left


def _joined(a: Group, b: Group) -> Group:
    """Both; samples left out for their length wait for a phase that has room for them."""
    fields = ("part_N", "document_N", "length_N", "start_N")
    return Group(**{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in fields})


def _begin(ends: Sequence[int] | NDArray[np.int64], i: int) -> int:
    """Where the i-th of a run of neighbours begins."""
    return int(ends[i - 1]) if i else 0


def _as_arrays(group: Group, end_N: NDArray[np.int64]) -> OrderedGroup:
    arrays = (group.part_N, group.document_N, group.start_N, group.start_N + group.length_N, end_N)
    return OrderedGroup(*(array("q", column.astype(np.int64).tobytes()) for column in arrays))
