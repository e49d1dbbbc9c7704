"""Pieces of documents laid into one pack: ids, labels and positions.

In: the pieces of a pack and the documents they are cut from. Out: `Pack`, three arrays of the sequence length.

    ids        bos A A A A /s  bos B B | pad pad       pieces end to end, then <|pad|>
    labels      A  A A A /s -   B  B B |  -   -        the token that follows, encoded with the stream; - is -100
    positions   0  1 2 3 4  5   0  1 2 |  0   1        0 opens every piece, a continuation and the padding

Documents come as views of the store between constant arrays (prompts.Spliced); those of a batch are copied at once. The
label of a piece's last token is read from its document, past the end of the pack if the document goes on there, so each
token but BOS is a target exactly once. Nothing is ever predicted across a document's border. Framing documents one by
one read 7.7 M tokens/s of paired speech, packs one by one 15.6; eight packs at once read 18 to 24 on a busy machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from titan_speech.data.documents import Documents
from titan_speech.data.labels import IGNORE_INDEX, encode_labels
from titan_speech.data.streams import Piece
from titan_speech.prompts import joined

FILLER = -1


@dataclass(frozen=True, eq=False)
class Pack:
    """What one slot trains on."""

    slot: int
    """Global slot, or -1 for a filler."""
    stream: int
    """Index of the stream in the plan, or -1 for a filler."""
    ids_S: NDArray[np.int64]
    labels_S: NDArray[np.int64]
    positions_S: NDArray[np.int64]
    pieces: tuple[Piece, ...]
    num_pad_tokens: int

    @property
    def num_documents(self) -> int:
        return len(self.pieces)

    @property
    def num_trained_tokens(self) -> int:
        return int((self.labels_S != IGNORE_INDEX).sum())


class Sheet(NamedTuple):
    """What one pack is laid out of."""

    stream: int
    documents: Sequence[Documents]
    pieces: Sequence[Piece]


FILLER_SHEET = Sheet(FILLER, (), ())


@dataclass(frozen=True, eq=False)
class LaidOut:
    """Several packs, as a batch has them."""

    ids_BS: NDArray[np.int64]
    labels_BS: NDArray[np.int64]
    positions_BS: NDArray[np.int64]


def lay_out(
    slot: int, stream: int, documents: Sequence[Documents], pieces: Sequence[Piece], seq_len: int, pad_id: int
) -> Pack:
    """The pack of these pieces, in their order. Only at the pack's end may a piece stop before its document."""
    laid = lay_out_all([Sheet(stream, documents, pieces)], seq_len, pad_id)
    num_pad_tokens = seq_len - sum(stop - start for _, _, start, stop in pieces)
    return Pack(slot, stream, laid.ids_BS[0], laid.labels_BS[0], laid.positions_BS[0], tuple(pieces), num_pad_tokens)


def lay_out_all(sheets: Sequence[Sheet], seq_len: int, pad_id: int) -> LaidOut:
    """Many packs in one go: numpy is called as often for eight as for one."""
    table = _Table(seq_len, pad_id)
    for sheet in sheets:
        table.add(sheet)
    return table.finished()


class _Table:
    """Arrays of packs end to end, each with one token more than a pack has: the last target."""

    def __init__(self, seq_len: int, pad_id: int) -> None:
        self.seq_len, self.pad_id = seq_len, pad_id
        self.arrays: list[NDArray] = []
        self.counts: list[NDArray] = []
        self.bases: list[int] = []
        self.streams: list[int] = []
        self.ignored: list[slice] = []
        """Positions without a target, counted over all packs."""
        self.last_places: list[int] = []
        self._count_S = _counting(seq_len)

    def add(self, sheet: Sheet) -> None:
        stream, documents, pieces = sheet
        arrays, counts, count_S, ignored = self.arrays, self.counts, self._count_S, self.ignored
        base = documents[0].base if pieces else 0
        first = end = len(self.bases) * self.seq_len
        is_open = False
        for part, number, start, stop in pieces:
            spliced, num_tokens, num_untrained = documents[part].spliced(number)
            size = stop - start
            arrays += spliced if size == num_tokens else cut_arrays(spliced, start, stop + 1)
            counts.append(count_S[:size])
            if num_untrained > start + 1:
                ignored.append(slice(end, end + min(num_untrained - start - 1, size)))
            end += size
            is_open = stop < num_tokens  # if it is the last piece, the token past the pack's end is its target
            if not is_open or stop < num_untrained:
                self.last_places.append(end - 1)
        num_pad = first + self.seq_len - end
        if num_pad:
            counts.append(count_S[:num_pad])
            ignored.append(slice(end, end + num_pad))
        if num_pad or not is_open:
            arrays.append(_padding(self.pad_id - base, self.seq_len)[: num_pad + 1 - is_open])
        self.bases.append(base)
        self.streams.append(stream)

    def finished(self) -> LaidOut:
        num_packs = len(self.bases)
        ids = joined(self.arrays, 0).reshape(num_packs, self.seq_len + 1)
        ids += np.array(self.bases, np.int32)[:, None]
        labels_BS = encode_labels(ids[:, 1:], np.array(self.streams, np.int64)[:, None])
        labels_P = labels_BS.reshape(-1)
        for some in self.ignored:
            labels_P[some] = IGNORE_INDEX
        labels_P[self.last_places] = IGNORE_INDEX
        positions_BS = np.concatenate(self.counts).reshape(num_packs, self.seq_len)
        return LaidOut(ids[:, :-1].astype(np.int64), labels_BS, positions_BS)


def cut_arrays(arrays: Sequence[NDArray], start: int, stop: int) -> list[NDArray]:
    """Views of tokens [start, stop) of arrays that lie end to end; what lies outside is not touched."""
    kept = []
    for array in arrays:
        if start < len(array) and stop > 0:
            kept.append(array[max(start, 0) : stop])
        start, stop = start - len(array), stop - len(array)
    return kept


@lru_cache(maxsize=4)
def _counting(seq_len: int) -> NDArray[np.int64]:
    count_S = np.arange(seq_len)
    count_S.flags.writeable = False
    return count_S


@lru_cache(maxsize=4)
def _padding(pad_id: int, seq_len: int) -> NDArray[np.int32]:
    """As much as a pack can need."""
    pad_S = np.full(seq_len + 1, pad_id, np.int32)
    pad_S.flags.writeable = False
    return pad_S


def filler_pack(seq_len: int, pad_id: int) -> Pack:
    """All padding: what a rank computes where the ranks do not divide a step."""
    return lay_out(FILLER, FILLER, (), (), seq_len, pad_id)


def pack_digest(ids_S: NDArray, labels_S: NDArray, positions_S: NDArray) -> str:
    """xxh3_128 of a pack's three arrays as int64, the form a batch has them in."""
    digest = xxhash.xxh3_128()
    for array_S in (ids_S, labels_S, positions_S):
        digest.update(array_S.astype("<i8").tobytes())
    return digest.hexdigest()
