"""Pieces of documents laid into one pack: ids, labels and positions.

In: the pieces of a pack and the documents they are cut from. Out: `Pack`, three arrays of the sequence length.

    ids        bos A A A A /s  bos B B | pad pad       pieces end to end, then <|pad|>
    labels      A  A A A /s -   B  B B |  -   -        the token that follows, encoded with the stream; - is -100
    positions   0  1 2 3 4  5   0  1 2 |  0   1        0 opens every piece, a continuation and the padding

Documents come as views of the store between constant arrays (prompts.Spliced); all of a pack's are copied at once.
The label of a piece's last token is read from its document, past the end of the pack if the document goes on there, so
each token but BOS is a target exactly once. Nothing is ever predicted across a document's border. It takes
half the time of framing documents one by one: 15.6 M tokens/s against 7.7, with the batch, for paired speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    ids_S: NDArray[np.int32]
    labels_S: NDArray[np.int64]
    positions_S: NDArray[np.int32]
    pieces: tuple[Piece, ...]
    num_pad_tokens: int

    @property
    def num_documents(self) -> int:
        return len(self.pieces)

    @property
    def num_trained_tokens(self) -> int:
        return int((self.labels_S != IGNORE_INDEX).sum())


def lay_out(
    slot: int, stream: int, documents: Sequence[Documents], pieces: Sequence[Piece], seq_len: int, pad_id: int
) -> Pack:
    """The pack of these pieces, in their order. Only at the pack's end may a piece stop before its document."""
    base = documents[0].base if pieces else 0
    arrays: list[NDArray] = []
    sizes: list[int] = []
    ignored: list[slice] = []
    last_places: list[int] = []
    end, is_open = 0, False
    for part, number, start, stop in pieces:
        spliced, num_tokens, num_untrained = documents[part].spliced(number)
        arrays += spliced if stop - start == num_tokens else cut_arrays(spliced, start, stop + 1)
        begin, end = end, end + stop - start
        sizes.append(stop - start)
        if num_untrained > start + 1:
            ignored.append(slice(begin, min(begin + num_untrained - start - 1, end)))
        is_open = stop < num_tokens  # if it is the last piece, the token past the pack's end is its target
        if not is_open or stop < num_untrained:
            last_places.append(end - 1)
    pad_S = np.full(seq_len + 1 - end - is_open, pad_id - base, np.int32)
    ids = joined([*arrays, pad_S], base)
    labels_S = encode_labels(ids[1:], stream)
    for some in ignored:
        labels_S[some] = IGNORE_INDEX
    labels_S[last_places] = IGNORE_INDEX
    labels_S[end:] = IGNORE_INDEX
    return Pack(slot, stream, ids[:-1], labels_S, _positions(sizes, seq_len), tuple(pieces), seq_len - end)


def cut_arrays(arrays: Sequence[NDArray], start: int, stop: int) -> list[NDArray]:
    """Views of tokens [start, stop) of arrays that lie end to end; what lies outside is not touched."""
    kept = []
    for array in arrays:
        if start < len(array) and stop > 0:
            kept.append(array[max(start, 0) : stop])
        start, stop = start - len(array), stop - len(array)
    return kept


def _positions(sizes: Sequence[int], seq_len: int) -> NDArray[np.int32]:
    """Counts from 0 in each piece and in the padding."""
    count_S = _counting(seq_len)
    return np.concatenate([*(count_S[:size] for size in sizes), count_S[: seq_len - sum(sizes)]])


@lru_cache(maxsize=4)
def _counting(seq_len: int) -> NDArray[np.int32]:
    count_S = np.arange(seq_len, dtype=np.int32)
    count_S.flags.writeable = False
    return count_S


def filler_pack(seq_len: int, pad_id: int) -> Pack:
    """All padding: what a rank computes where the ranks do not divide a step."""
    return lay_out(FILLER, FILLER, (), (), seq_len, pad_id)


def pack_digest(ids_S: NDArray, labels_S: NDArray, positions_S: NDArray) -> str:
    """xxh3_128 of a pack's three arrays as int64, the form a batch has them in."""
    digest = xxhash.xxh3_128()
    for array_S in (ids_S, labels_S, positions_S):
        digest.update(array_S.astype("<i8").tobytes())
    return digest.hexdigest()
