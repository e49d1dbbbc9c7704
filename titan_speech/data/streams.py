"""One source in one language as an endless sequence of packs, any of which is found without its predecessors.

In: the documents of one or several parts. Out: `pieces(j)`: what the j-th pack of the stream holds.

Documents form fixed groups (groups.py). The store was shuffled when it was built; here each epoch permutes the groups,
and the documents inside each, by keys of (seed, stream, epoch, group). Only the orders of the last groups are held: a
jump to pack 1e9 of 2 M documents costs 1.5 ms (SplitStream) or 9 ms (WholeStream), the next pack of the group 10 us.

`SplitStream` (speech, text) is one token sequence over all epochs: pack j is the window [jS, (j+1)S), and epoch e
begins at token e * T, wherever in a pack that is. The design page had every epoch begin with a pack of its own; without
that, nothing is padded or dropped at an epoch's end, and a position is a plain count of tokens, which is what carries
over when the sequence length or the weights change between phases.

`WholeStream` (paired speech) packs best-fit inside each group. The number of packs of a group depends on its lengths
alone, so epoch e begins at pack e * P. Which of two equally long samples goes where, and the order of the packs, are
permuted anew in every epoch.

Shapes: N documents of a group, G groups.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.groups import Group, Groups
from titan_speech.data.order import permutation
from titan_speech.data.packing import best_fit, cut

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
    longest: int = 0
    """Tokens of the longest document, also of one left out."""

    @property
    def num_too_long(self) -> int:
        return self.num_dropped + self.num_split

    def __add__(self, other: Counts) -> Counts:
        names = ("num_documents", "num_tokens", "num_packs", "num_unusable", "num_dropped", "num_split")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Counts(**sums, longest=max(self.longest, other.longest))


class Stream(Protocol):
    """What the plan mixes."""

    counts: Counts

    def pieces(self, j: int) -> list[Piece]:
        """What the j-th pack holds, in order."""
        ...


class EpochOrder(NamedTuple):
    """Order of the groups in one epoch."""

    groups: list[int]
    ends: list[int]
    """Where each group ends, in tokens or packs from the start of the epoch."""


class _GroupedStream:
    """Finds the group that holds a position of the endless sequence; `sizes_G` in the unit of positions."""

    def __init__(self, key: str, groups: Groups, sizes_G: NDArray[np.int64]) -> None:
        self.key, self.groups, self.sizes_G = key, groups, sizes_G
        self.epoch_size = int(sizes_G.sum())
        self._build_caches()

    def _build_caches(self) -> None:
        self.epoch_order = lru_cache(NUM_CACHED_EPOCHS)(self._epoch_order)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        order_G = permutation(f"{self.key}/groups/{epoch}", len(self.sizes_G))
        return EpochOrder(order_G.tolist(), np.cumsum(self.sizes_G[order_G]).tolist())

    def locate(self, position: int) -> tuple[int, int, int, int]:
        """Epoch, group, position inside the group, and how many positions the group has from there on."""
        epoch, offset = divmod(position, self.epoch_size)
        order = self.epoch_order(epoch)
        i = bisect_right(order.ends, offset)
        begin = order.ends[i - 1] if i else 0
        return epoch, order.groups[i], offset - begin, order.ends[i] - offset

    def __getstate__(self) -> dict[str, object]:
        """Caches stay behind when the stream goes to a worker process."""
        return {name: value for name, value in vars(self).items() if not hasattr(value, "cache_clear")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._build_caches()


class OrderedGroup(NamedTuple):
    """Documents of a group in the order of one epoch, as plain lists for fast single access."""

    parts: list[int]
    documents: list[int]
    starts: list[int]
    lengths: list[int]
    ends: list[int]
    """Where each document ends in the group's tokens (SplitStream), or each pack in its documents (WholeStream)."""


class SplitStream(_GroupedStream):
    """Documents end to end; position = token."""

    def __init__(self, key: str, groups: Groups, seq_len: int) -> None:
        self.seq_len = seq_len
        counts = [self._count(groups.group(k), groups.num_samples(k)) for k in range(groups.num_groups)]
        self.counts = sum(counts, Counts())
        super().__init__(key, groups, np.array([count.num_tokens for count in counts]))

    def _count(self, group: Group, num_samples: int) -> Counts:
        num_tokens, num_documents = int(group.length_N.sum()), len(group.length_N)
        return Counts(
            num_documents=num_documents,
            num_tokens=num_tokens,
            num_packs=num_tokens / self.seq_len,
            num_unusable=num_samples - num_documents,
            longest=int(group.length_N.max(initial=0)),
        )

    def _build_caches(self) -> None:
        super()._build_caches()
        self.ordered_group = lru_cache(NUM_CACHED_GROUPS)(self._ordered_group)

    def _ordered_group(self, epoch: int, k: int) -> OrderedGroup:
        group = self.groups.group(k)
        group = group.taken(permutation(f"{self.key}/documents/{epoch}/{k}", len(group.length_N)))
        return _as_lists(group, np.cumsum(group.length_N))

    def pieces(self, j: int) -> list[Piece]:
        position, missing = j * self.seq_len, self.seq_len
        pieces: list[Piece] = []
        while missing:
            epoch, k, offset, num_left = self.locate(position)
            group = self.ordered_group(epoch, k)
            taken = min(num_left, missing)
            for i, start, stop in cut(group.ends, offset, offset + taken):
                pieces.append(Piece(group.parts[i], group.documents[i], start, stop))
            position, missing = position + taken, missing - taken
        return pieces


class WholeStream(_GroupedStream):
    """Whole documents, best-fit inside each group; position = pack.

    A sample above the sequence length is left out, or with `split` cut into pieces that are packed like samples.
    """

    def __init__(self, key: str, groups: Groups, seq_len: int, split: bool) -> None:
        self.seq_len, self.split = seq_len, split
        counts = [self._count(groups.group(k), groups.num_samples(k)) for k in range(groups.num_groups)]
        self.counts = sum(counts, Counts())
        super().__init__(key, groups, np.array([int(count.num_packs) for count in counts]))

    def _count(self, group: Group, num_samples: int) -> Counts:
        items = self._items(group)
        num_too_long = int((group.length_N > self.seq_len).sum())
        return Counts(
            num_documents=int((items.start_N == 0).sum()),
            num_tokens=int(items.length_N.sum()),
            num_packs=best_fit(np.sort(items.length_N)[::-1].tolist(), self.seq_len)[1],
            num_unusable=num_samples - len(group.length_N),
            num_dropped=0 if self.split else num_too_long,
            num_split=num_too_long if self.split else 0,
            longest=int(group.length_N.max(initial=0)),
        )

    def _build_caches(self) -> None:
        super()._build_caches()
        self.ordered_group = lru_cache(NUM_CACHED_GROUPS)(self._ordered_group)

    def _items(self, group: Group) -> Group:
        """What is packed: samples that fit, and the pieces of those that do not."""
        if not self.split:
            return group.taken(np.flatnonzero(group.length_N <= self.seq_len))
        num_pieces_N = -(-group.length_N // self.seq_len)
        pieces = group.taken(np.repeat(np.arange(len(num_pieces_N)), num_pieces_N))
        first_N = np.cumsum(num_pieces_N) - num_pieces_N
        start_N = (np.arange(len(pieces.length_N)) - np.repeat(first_N, num_pieces_N)) * self.seq_len
        return replace(pieces, start_N=start_N, length_N=np.minimum(pieces.length_N - start_N, self.seq_len))

    def _ordered_group(self, epoch: int, k: int) -> OrderedGroup:
        items = self._items(self.groups.group(k))
        items = items.taken(permutation(f"{self.key}/documents/{epoch}/{k}", len(items.length_N)))
        items = items.taken(np.argsort(-items.length_N, kind="stable"))
        packs, num_packs = best_fit(items.length_N.tolist(), self.seq_len)
        pack_N = permutation(f"{self.key}/packs/{epoch}/{k}", num_packs)[packs]
        items = items.taken(np.argsort(pack_N, kind="stable"))
        return _as_lists(items, np.cumsum(np.bincount(pack_N, minlength=num_packs)))

    def pieces(self, j: int) -> list[Piece]:
        epoch, k, pack, _ = self.locate(j)
        group = self.ordered_group(epoch, k)
        first = group.ends[pack - 1] if pack else 0
        return [
            Piece(group.parts[i], group.documents[i], group.starts[i], group.starts[i] + group.lengths[i])
            for i in range(first, group.ends[pack])
        ]


def _as_lists(group: Group, end_N: NDArray[np.int64]) -> OrderedGroup:
    arrays = (group.part_N, group.document_N, group.start_N, group.length_N, end_N)
    return OrderedGroup(*(array.tolist() for array in arrays))
