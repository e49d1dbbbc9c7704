"""Packs and batches as arrays: the ids, labels and positions of pieces of documents.

In: for each pack its stream, and the pieces of documents it holds. Out: `PackedBatch`, or one `Pack` with its pieces.

    ids        bos A A A A /s  bos B B | pad pad       pieces one after the other, then <|pad|>
    labels      A  A A A /s -   B  B B |  -   -        the token that follows, encoded with the stream; - is -100
    positions   0  1 2 3 4  5   0  1 2 |  0   1        every piece starts at 0: documents, their continuations, padding

All documents that the packs of a batch take from one part are read in one call, as views of the store between template
tokens (tokenization/token_runs.py), and all runs of the batch are joined at once: numpy is called as often for eight
packs as for one. The label of a piece's last token is read from its document, past the end of the pack if the document
continues there, so each token but BOS is a target exactly once. Nothing is ever predicted across the end of a document.

A label is `id | stream << 32`, int64; -100 where nothing is trained. The stream is part of the label because nothing
else passes chunked losses, context parallelism, pipelines and CUDA graphs unchanged. It costs no bytes: TorchTitan's
labels are int64, and ids need 18 of the 64 bits.

Packs of preference pairs have `number << 48` in it as well, the number of the answer in its pack from 1 on: 1 and 2 are
the chosen and the rejected answer of the first pair. Their batch also says which sample each number is.

Shapes: B packs, S tokens of a pack, P = B * S positions of the batch, A numbers of answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from titan_speech.data.documents import Documents
from titan_speech.data.packing import Piece
from titan_speech.data.paired_documents import PreferenceDocuments
from titan_speech.tokenization.token_runs import TokenRuns, merge_runs

if TYPE_CHECKING:
    import torch  # planning and reading work without it: 400 MB of libraries


IGNORE_INDEX = -100
STREAM_SHIFT = 32
ID_MASK = (1 << STREAM_SHIFT) - 1
ANSWER_SHIFT = 48
STREAM_MASK = (1 << ANSWER_SHIFT - STREAM_SHIFT) - 1
MAX_STREAMS = STREAM_MASK
MIN_PAIR_TOKENS = 14
"""Twice bos, text_start, one token of text, text_end, speech_start, a code and speech_end."""
PADDING_SLOT = -1

Array = TypeVar("Array", NDArray[np.int64], "torch.Tensor")


def encode_labels(ids: NDArray[np.integer], stream: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels of trained tokens: ids with their stream, one for all or one per row."""
    labels = ids.astype(np.int64)
    if np.any(stream):
        labels |= stream << STREAM_SHIFT
    return labels


def split_labels(labels: Array) -> tuple[Array, Array]:
    """Ids (-100 where not trained) and streams (0 where not trained) of encoded labels, of any shape."""
    trained = labels >= 0
    ids = (labels & ID_MASK) * trained + IGNORE_INDEX * ~trained
    return ids, (labels >> STREAM_SHIFT & STREAM_MASK) * trained


def answer_numbers(labels: Array) -> Array:
    """The number of each trained token's answer in its pack; 0 where not trained, and in packs without answers."""
    return (labels >> ANSWER_SHIFT) * (labels >= 0)


def max_answers(seq_len: int) -> int:
    """As many answers as a pack can hold at most; an even number."""
    return 2 * (seq_len // MIN_PAIR_TOKENS)


@dataclass(frozen=True, eq=False)
class Pack:
    """What is trained on at one slot."""

    slot: int
    """Global slot; -1 for padding."""
    stream: int
    """Index of the stream in the plan; -1 for padding."""
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
    """What one pack is built from."""

    stream: int
    documents: Sequence[Documents]
    """By part; the same for all packs of a stream."""
    pieces: Sequence[Piece]
    """In their order. Only the last may end before its document, and only at the end of the pack."""


PADDING_PACK_PLAN = PackPlan(PADDING_SLOT, (), ())
"""All padding: what a rank computes if the ranks do not divide a step evenly."""


def views(documents: Sequence[Documents], pieces: Sequence[Piece]) -> Sequence[Piece]:
    """What a pack is built from: of a preference pair its two answers, one after the other, else the pieces."""
    if not (documents and isinstance(documents[0], PreferenceDocuments)):
        return pieces
    pairs = cast(Sequence[PreferenceDocuments], documents)
    return [
        Piece(part, number, 0, num_tokens)
        for part, document, _, _ in pieces
        for number, num_tokens in pairs[part].answers(document)
    ]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Several packs, as rows of a batch."""

    ids_BS: NDArray[np.int64]
    labels_BS: NDArray[np.int64]
    positions_BS: NDArray[np.int64]
    answers_BA3: NDArray[np.int64] | None = None
    """Stream, part and sample of each answer, at its number; -1 where no answer has that number. Only with preference
    pairs."""


def build_pack(
    slot: int, stream: int, documents: Sequence[Documents], pieces: Sequence[Piece], seq_len: int, pad_id: int
) -> Pack:
    """One pack, with what it holds; see `PackPlan`."""
    batch = build_batch([PackPlan(stream, documents, pieces)], seq_len, pad_id)
    num_pad_tokens = seq_len - sum(stop - start for _, _, start, stop in pieces)
    return Pack(slot, stream, batch.ids_BS[0], batch.labels_BS[0], batch.positions_BS[0], tuple(pieces), num_pad_tokens)


def build_batch(pack_plans: Sequence[PackPlan], seq_len: int, pad_id: int) -> PackedBatch:
    """Build several packs at once.

    Args:
        pack_plans: one per pack.
        seq_len: tokens of a pack.
        pad_id: id of the padding token.
    """
    reads, takes_by_pack = _plan_reads(pack_plans)
    for read in reads:
        read.token_runs = read.documents.token_runs(read.numbers)
    layout = _Layout(seq_len, pad_id)
    for takes in takes_by_pack:
        layout.add_pack(takes)
    for read in reads:
        if read.windows:
            read.token_runs = read.token_runs.cut(read.windows)
    first_code_id = reads[0].documents.first_code_id if reads else 0  # a plan has one vocabulary
    batch = layout.join(takes_by_pack, [stream for stream, _, _ in pack_plans], first_code_id)
    if not any(isinstance(read.documents, PreferenceDocuments) for read in reads):
        return batch
    return _with_answers(batch, pack_plans)


def _with_answers(batch: PackedBatch, pack_plans: Sequence[PackPlan]) -> PackedBatch:
    """The batch with the number of its answer in each label, and what has that number."""
    number_BS = np.cumsum(batch.positions_BS == 0, axis=1)
    batch.labels_BS[...] += (number_BS << ANSWER_SHIFT) * (batch.labels_BS >= 0)
    answers_BA3 = np.full((len(pack_plans), max_answers(batch.labels_BS.shape[1]) + 1, 3), -1, np.int64)
    for answers_A3, (stream, _, pieces) in zip(answers_BA3, pack_plans, strict=True):
        for number, (part, sample, _, _) in enumerate(pieces, 1):
            answers_A3[number] = stream, part, sample
    return replace(batch, answers_BA3=answers_BA3)


@dataclass(slots=True)
class _Read:
    """All documents that the packs of a batch take from one part of a stream."""

    documents: Documents
    numbers: list[int] = field(default_factory=list)
    token_runs: TokenRuns = field(init=False)
    windows: list[tuple[int, int, int]] = field(default_factory=list)
    """Which of the documents are taken in part, and their tokens [start, stop): the piece and the token after it, which
    is its last target."""


_Take: TypeAlias = tuple[_Read, int, Sequence[Piece]]
"""A read, `first`, and neighbouring pieces of one part in a pack: they are documents `first` and following of the read.
A plain tuple, which takes a quarter of the time of a named one to make."""


_part_of = itemgetter(0)


def _plan_reads(pack_plans: Sequence[PackPlan]) -> tuple[list[_Read], list[list[_Take]]]:
    """What to read of each part, and what each pack takes of that."""
    reads: dict[tuple[int, int], _Read] = {}
    takes_by_pack: list[list[_Take]] = []
    for stream, documents, pieces in pack_plans:
        takes: list[_Take] = []
        for part, neighbours in _pieces_by_part(documents, pieces):
            read = reads.get((stream, part))
            if read is None:
                read = reads[stream, part] = _Read(documents[part])
            takes.append((read, len(read.numbers), neighbours))
            read.numbers += [number for _, number, _, _ in neighbours]
        takes_by_pack.append(takes)
    return list(reads.values()), takes_by_pack


def _pieces_by_part(documents: Sequence[Documents], pieces: Sequence[Piece]) -> Iterable[tuple[int, Sequence[Piece]]]:
    """Runs of neighbouring pieces of one part."""
    if len(documents) == 1:
        return ((0, pieces),) if pieces else ()
    return ((part, list(run)) for part, run in groupby(pieces, _part_of))


class _Layout:
    """What the packs of a batch are joined from, one after the other; each has one token more, its last target."""

    def __init__(self, seq_len: int, pad_id: int) -> None:
        self.seq_len, self.pad_id = seq_len, pad_id
        self.num_padding: list[int] = []
        """Padding tokens of each pack, its last target included."""
        self.sizes: list[int] = []
        """Tokens of each piece and each padding."""
        self.untrained: list[slice] = []
        """Positions in the batch without a target, besides the last of each piece."""
        self.continued: list[int] = []
        """Last positions of packs whose last document continues in another pack: their target is its next token."""

    def add_pack(self, takes: Sequence[_Take]) -> None:
        first = end = len(self.num_padding) * self.seq_len
        num_past_end = 0
        for take in takes:
            end, num_past_end = self._add_pieces(take, end)
        num_pad = first + self.seq_len - end
        if num_pad:
            self.sizes.append(num_pad)
            self.untrained.append(slice(end, end + num_pad))
        self.num_padding.append(num_pad + 1 - num_past_end)

    def _add_pieces(self, take: _Take, end: int) -> tuple[int, int]:
        """Add the pieces from position `end` on.

        Returns:
            Where they end, and 1 if the last document continues after that, else 0.
        """
        read, document, pieces = take
        num_tokens_of, num_untrained_of, num_past_end = read.token_runs.num_tokens, read.token_runs.num_untrained, 0
        for _, _, start, stop in pieces:
            size, num_tokens, num_untrained = stop - start, num_tokens_of[document], num_untrained_of[document]
            self.sizes.append(size)
            if num_untrained > start + 1:
                self.untrained.append(slice(end, end + min(num_untrained - start - 1, size)))
            end += size
            if size != num_tokens:
                read.windows.append((document, start, stop + 1))
                num_past_end = int(stop < num_tokens)
                if num_past_end and stop >= num_untrained:
                    self.continued.append(end - 1)
            document += 1
        return end, num_past_end

    def join(self, takes_by_pack: Sequence[Sequence[_Take]], streams: Sequence[int], first_code_id: int) -> PackedBatch:
        """The batch, once all documents are read and cut; `streams` has the stream of each pack."""
        padding = _padding_ids(self.pad_id, self.seq_len)
        text: list[memoryview] = []
        codes: list[memoryview] = []
        lengths: list[int] = []
        is_code: list[bytes] = []
        for takes, num_padding in zip(takes_by_pack, self.num_padding, strict=True):
            for read, first, pieces in takes:
                runs, stop = read.token_runs, first + len(pieces)
                num_runs, num_codes = len(runs.is_code), sum(runs.is_code)
                num_texts = num_runs - num_codes
                text += runs.text[first * num_texts : stop * num_texts]
                codes += runs.codes[first * num_codes : stop * num_codes]
                lengths += runs.lengths[first * num_runs : stop * num_runs]
                is_code.append(runs.is_code * (stop - first))
            if num_padding:
                text.append(padding[:num_padding])
                lengths.append(num_padding)
                is_code.append(b"\0")
        ids = merge_runs(text, codes, lengths, b"".join(is_code), first_code_id)
        ids = ids.reshape(len(streams), self.seq_len + 1)
        stream = streams[0] if len(set(streams)) == 1 else np.array(streams, np.int64)[:, None]
        labels_BS = encode_labels(ids[:, 1:], stream)
        self._ignore_untrained(labels_BS.reshape(-1))
        positions = bytearray().join([_counting(self.seq_len)[:size] for size in self.sizes])
        positions_BS = np.frombuffer(positions, np.int64).reshape(len(streams), self.seq_len)
        return PackedBatch(ids[:, :-1].astype(np.int64), labels_BS, positions_BS)

    def _ignore_untrained(self, labels_P: NDArray[np.int64]) -> None:
        """Nothing is predicted across the end of a document, in padding, or before the first target."""
        next_of_continued = [labels_P[position] for position in self.continued]
        labels_P[np.array(list(accumulate(self.sizes))) - 1] = IGNORE_INDEX
        for position, label in zip(self.continued, next_of_continued, strict=True):
            labels_P[position] = label
        for positions in self.untrained:
            labels_P[positions] = IGNORE_INDEX


@lru_cache(maxsize=4)
def _counting(seq_len: int) -> memoryview:
    """int64 0, 1, 2, ..., of which positions are slices."""
    return np.arange(seq_len).data


@lru_cache(maxsize=4)
def _padding_ids(pad_id: int, seq_len: int) -> memoryview:
    """As many padding tokens as a pack can need."""
    return np.full(seq_len + 1, pad_id, np.uint32).data


def pack_digest(ids_S: NDArray, labels_S: NDArray, positions_S: NDArray) -> str:
    """xxh3_128 of a pack's three arrays as int64, as a batch has them."""
    digest = xxhash.xxh3_128()
    for array_S in (ids_S, labels_S, positions_S):
        digest.update(array_S.astype("<i8").tobytes())
    return digest.hexdigest()
