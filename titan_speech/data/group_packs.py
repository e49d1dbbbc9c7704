"""What a group of documents becomes under some rules: which packs, and how many.

In: a group (groups.py) and `Rules`. Out: `Counts`, which depend on the lengths alone, and `OrderedGroup`, the documents
of an epoch in the order of its keys, of which a pack or a window takes neighbours.

How many packs a group of whole samples fills is the same in every epoch. Which of two equally long samples goes where,
and the order of the packs, are permuted anew by the key. What some packs leave of a group can be packed again under
other rules: that is how a later phase goes on inside a group.

Shapes: N documents of a group.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.groups import Group, Groups
from titan_speech.data.order import permutation
from titan_speech.data.packing import begin_of, best_fit, num_best_fit


class Piece(NamedTuple):
    """Tokens [start, stop) of one document."""

    part: int
    """Which of the stream's documents."""
    document: int
    start: int
    stop: int


_NEW_PIECE = tuple.__new__


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


class OrderedGroup(NamedTuple):
    """Documents of a group in the order of one epoch, as arrays of machine words, fast to index one by one."""

    parts: array[int]
    documents: array[int]
    starts: array[int]
    stops: array[int]
    ends: array[int]
    """Where each document ends in the group's tokens (SplitStream), or each pack in its documents (WholeStream)."""

    @classmethod
    def of(cls, group: Group, end_N: NDArray[np.int64]) -> OrderedGroup:
        columns = (group.part_N, group.document_N, group.start_N, group.start_N + group.length_N, end_N)
        return cls(*(array("q", column.astype(np.int64).tobytes()) for column in columns))

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """Those numbered [begin, end), whole."""
        some = slice(begin, end)
        values = zip(self.parts[some], self.documents[some], self.starts[some], self.stops[some], strict=True)
        return list(map(_NEW_PIECE, repeat(Piece), values))  # calling Piece takes longer


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
    """What each group of the run (or all) holds for a WholeStream."""
    return [_whole_counts(groups.group(k), groups.num_samples(k), rules) for k in run or range(groups.num_groups)]


def _whole_counts(group: Group, num_samples: int, rules: Rules) -> Counts:
    items = fitting_items(group, rules)
    num_too_long = int((group.length_N > rules.seq_len).sum())
    return Counts(
        num_documents=int((items.start_N == 0).sum()),
        num_tokens=int(items.length_N.sum()),
        num_packs=num_best_fit(items.length_N, rules.seq_len),
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


def packed(group: Group, key: str, rules: Rules, num_read: int = 0) -> tuple[tuple[Group, NDArray[np.int64]], Group]:
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


def _joined(a: Group, b: Group) -> Group:
    """Both; samples left out for their length wait for a phase that has room for them."""
    fields = ("part_N", "document_N", "length_N", "start_N")
    return Group(**{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in fields})
