"""Labels that carry the stream they came from.

In: next-token ids and the index of the pack's stream. Out: int64 labels `id | stream << 32`; and the way back, for
numpy arrays and torch tensors alike. Where nothing is trained, the label is -100.

The group rides inside the labels because nothing else passes chunked losses, context parallelism, pipelines and CUDA
graphs untouched. It costs no bytes: TorchTitan's labels are int64, and ids need 18 of the 64 bits.

Pieces of documents laid into one pack: ids, labels and positions.

In: the pieces of a pack and the documents they are cut from. Out: `Pack`, three arrays of the sequence length.

    ids        bos A A A A /s  bos B B | pad pad       pieces end to end, then <|pad|>
    labels      A  A A A /s -   B  B B |  -   -        the token that follows, encoded with the stream; - is -100
    positions   0  1 2 3 4  5   0  1 2 |  0   1        0 opens every piece, a continuation and the padding

Documents come as views of the store between constant ones (splice.py); those of a batch are copied at once, since numpy
costs as much for one as for all of them. The label of a piece's last token is read from its document, past the end of
the pack if the document goes on there, so each token but BOS is a target exactly once. Nothing is ever predicted across
a document's border.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from titan_speech.data.documents import Documents
from titan_speech.data.packing import Piece
from titan_speech.tokenization.token_runs import TokenRuns, merge_runs

if TYPE_CHECKING:
    import torch  # planning and reading do without: 400 MB of libraries


IGNORE_INDEX = -100
STREAM_SHIFT = 32
ID_MASK = (1 << STREAM_SHIFT) - 1

Array = TypeVar("Array", NDArray[np.int64], "torch.Tensor")


def encode_labels(ids: NDArray[np.integer], stream: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels of trained tokens: each with its stream, of all or of each row."""
    labels = ids.astype(np.int64)
    if np.any(stream):
        labels |= stream << STREAM_SHIFT
    return labels


def split_labels(labels: Array) -> tuple[Array, Array]:
    """Ids (-100 where not trained) and streams (0 where not trained) of encoded labels, of any shape."""
    trained = labels >= 0
    ids = (labels & ID_MASK) * trained + IGNORE_INDEX * ~trained
    return ids, (labels >> STREAM_SHIFT) * trained


PADDING_SLOT = -1
_PART = itemgetter(0)


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


class PackPlan(NamedTuple):
    """What one pack is laid out of."""

    stream: int
    documents: Sequence[Documents]
    pieces: Sequence[Piece]


PADDING_PACK_PLAN = PackPlan(PADDING_SLOT, (), ())


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Several packs, as a batch has them."""

    ids_BS: NDArray[np.int64]
    labels_BS: NDArray[np.int64]
    positions_BS: NDArray[np.int64]


def build_pack(
    slot: int, stream: int, documents: Sequence[Documents], pieces: Sequence[Piece], seq_len: int, pad_id: int
) -> Pack:
    """The pack of these pieces, in their order. Only at the pack's end may a piece stop before its document."""
    laid = build_batch([PackPlan(stream, documents, pieces)], seq_len, pad_id)
    num_pad_tokens = seq_len - sum(stop - start for _, _, start, stop in pieces)
    return Pack(slot, stream, laid.ids_BS[0], laid.labels_BS[0], laid.positions_BS[0], tuple(pieces), num_pad_tokens)


def build_batch(sheets: Sequence[PackPlan], seq_len: int, pad_id: int) -> PackedBatch:
    """Many packs in one go: numpy is called as often for eight as for one."""
    table = _Table(seq_len, pad_id, _sources(sheets))
    for sheet in sheets:
        table.add(sheet)
    return table.finished()


@dataclass(slots=True)
class _Source:
    """The documents that some packs take of one part, in the order in which they take them."""

    spliced: TokenRuns
    num_taken: int = 0


def _sources(sheets: Sequence[PackPlan]) -> dict[int, _Source]:
    """All documents of each part at once, by the id of their `Documents`."""
    numbers: dict[int, list[int]] = {}
    readers: dict[int, Documents] = {}
    for _, documents, pieces in sheets:
        for part, run in _runs(documents, pieces):
            key = id(documents[part])
            readers[key] = documents[part]
            numbers.setdefault(key, []).extend([number for _, number, _, _ in run])
    return {key: _Source(reader.spliced(numbers[key])) for key, reader in readers.items()}


def _runs(documents: Sequence[Documents], pieces: Sequence[Piece]) -> Iterable[tuple[int, Iterable[Piece]]]:
    """Neighbouring pieces of one part."""
    if len(documents) == 1:
        return ((0, pieces),) if pieces else ()
    return groupby(pieces, _PART)


class _Table:
    """Runs of packs end to end, each pack with one token more than it has: the last target."""

    def __init__(self, seq_len: int, pad_id: int, sources: Mapping[int, _Source]) -> None:
        self.seq_len, self.pad_id, self.sources, self.first_code_id = seq_len, pad_id, sources, 0
        self.words: list[memoryview] = []
        self.codes: list[memoryview] = []
        self.lengths: list[int] = []
        self.is_code: list[bytes] = []
        self.sizes: list[int] = []
        """Tokens of each piece and each padding."""
        self.streams: list[int] = []
        self.ignored: list[slice] = []
        """Positions without a target, counted over all packs."""
        self.open_places: list[int] = []
        """Last positions of packs whose last document goes on: their target is its next token."""

    def add(self, sheet: PackPlan) -> None:
        stream, documents, pieces = sheet
        first = len(self.streams) * self.seq_len
        end, num_past_end = first, 0
        for part, run in _runs(documents, pieces):
            end, num_past_end = self._add_pieces(documents[part], run, end)
        num_pad = first + self.seq_len - end
        if num_pad:
            self.sizes.append(num_pad)
            self.ignored.append(slice(end, end + num_pad))
        if num_pad or not num_past_end:
            self._add_padding(num_pad + 1 - num_past_end)
        self.streams.append(stream)

    def _add_pieces(self, documents: Documents, pieces: Iterable[Piece], end: int) -> tuple[int, int]:
        """Neighbours of one part from position `end` on; where they end, and 1 if the last goes on after that."""
        source = self.sources[id(documents)]
        spliced, document, num_past_end = source.spliced, source.num_taken, 0
        self.first_code_id = documents.first_code_id  # of the one vocabulary of a plan
        for _, _, start, stop in pieces:
            size, num_tokens = stop - start, spliced.num_tokens[document]
            num_untrained = spliced.num_untrained[document]
            self.sizes.append(size)
            if num_untrained > start + 1:
                self.ignored.append(slice(end, end + min(num_untrained - start - 1, size)))
            end += size
            if size != num_tokens:
                spliced.cut(document, start, stop + 1)
                num_past_end = int(stop < num_tokens)
                if num_past_end and stop >= num_untrained:
                    self.open_places.append(end - 1)
            document += 1
        self._take(spliced, source.num_taken, document)
        source.num_taken = document
        return end, num_past_end

    def _take(self, spliced: TokenRuns, first: int, stop: int) -> None:
        """The runs of documents [first, stop)."""
        num_runs, num_codes = len(spliced.is_code), sum(spliced.is_code)
        num_words = num_runs - num_codes
        self.words += spliced.text[first * num_words : stop * num_words]
        self.codes += spliced.codes[first * num_codes : stop * num_codes]
        self.lengths += spliced.lengths[first * num_runs : stop * num_runs]
        self.is_code.append(spliced.is_code * (stop - first))

    def _add_padding(self, num_tokens: int) -> None:
        self.words.append(_padding(self.pad_id, self.seq_len)[:num_tokens])
        self.lengths.append(num_tokens)
        self.is_code.append(b"\0")

    def finished(self) -> PackedBatch:
        num_packs = len(self.streams)
        ids = merge_runs(self.words, self.codes, self.lengths, b"".join(self.is_code), self.first_code_id)
        ids = ids.reshape(num_packs, self.seq_len + 1)
        one_stream = len(set(self.streams)) == 1
        stream = self.streams[0] if one_stream else np.array(self.streams, np.int64)[:, None]
        labels_BS = encode_labels(ids[:, 1:], stream)
        self._ignore(labels_BS.reshape(-1))
        return PackedBatch(ids[:, :-1].astype(np.int64), labels_BS, self._positions().reshape(num_packs, self.seq_len))

    def _ignore(self, labels_P: NDArray[np.int64]) -> None:
        """Nothing is predicted across the end of a document, in padding, or before the first target."""
        open_labels = [labels_P[place] for place in self.open_places]
        labels_P[np.array(list(accumulate(self.sizes))) - 1] = IGNORE_INDEX
        for place, label in zip(self.open_places, open_labels, strict=True):
            labels_P[place] = label
        for some in self.ignored:
            labels_P[some] = IGNORE_INDEX

    def _positions(self) -> NDArray[np.int64]:
        """0 opens every piece."""
        count_S = _counting(self.seq_len)
        return np.frombuffer(bytearray().join([count_S[:size] for size in self.sizes]), np.int64)


@lru_cache(maxsize=4)
def _counting(seq_len: int) -> memoryview:
    """int64 0, 1, 2, ..., of which positions are slices."""
    return np.arange(seq_len).data


@lru_cache(maxsize=4)
def _padding(pad_id: int, seq_len: int) -> memoryview:
    """As much as a pack can need."""
    return np.full(seq_len + 1, pad_id, np.uint32).data


def padding_pack(seq_len: int, pad_id: int) -> Pack:
    """All padding: what a rank computes where the ranks do not divide a step."""
    return build_pack(PADDING_SLOT, PADDING_SLOT, (), (), seq_len, pad_id)


def pack_digest(ids_S: NDArray, labels_S: NDArray, positions_S: NDArray) -> str:
    """xxh3_128 of a pack's three arrays as int64, the form a batch has them in."""
    digest = xxhash.xxh3_128()
    for array_S in (ids_S, labels_S, positions_S):
        digest.update(array_S.astype("<i8").tobytes())
    return digest.hexdigest()
