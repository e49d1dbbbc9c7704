"""Choose samples of a store, and read all that the checks and the page need of each.

In: a store, a number of samples and a seed. Out: for each part some shards and samples of them (`choose`), and
`AuditSample`s (`read_samples`), 10,000 in 0.2 s without a tokenizer.

Choice. Every part has the same quota, and what a small part cannot fill goes to larger ones, so a language of 200
samples is checked as reliably as one of 20 M. The samples of a part are stored in shuffled order, so a shard is itself
a random choice: a part is read from at most four of its shards, and an audit of 1,250 shards reads 12 GB of codes, not
160.

Comparison with other rows. Repeated transcripts, repeated codes and the order of segments are found by comparing all
rows of the chosen shards, not only the chosen samples: in a choice of 1 in 1,000 hardly any pair would be found. Pairs
across other shards stay unseen, so in large parts the shares are lower bounds. 1 M rows take some 3 s.

Text. A transcript is read from the sidecar; the words of a text part are stored as ids only, so they need a tokenizer.

Shapes: R rows of the chosen shards, K of them with a known place, T codes or text ids of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, Store
from titan_speech.tokenization.text_tokenizer import TextTokenizer

MAX_SHARDS_PER_PART = 4


@dataclass(frozen=True)
class ChosenShard:
    """Samples of one shard; `rows` are ascending positions in it, `first` its first sample's number in the part."""

    shard: int
    first: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ChosenPart:
    """The chosen samples of one part."""

    part: Part
    shards: tuple[ChosenShard, ...]

    @property
    def num_samples(self) -> int:
        return sum(len(shard.rows) for shard in self.shards)


def choose(store: Store, num_samples: int, seed: int) -> list[ChosenPart]:
    """Choose samples of every part; equal store, number and seed give equal samples.

    Raises:
        DataError: fewer samples than parts.
    """
    parts = [part for part in store.parts if part.num_samples]
    if num_samples < len(parts):
        raise DataError(
            f"--samples {num_samples} cannot cover the {len(parts)} parts of {store.path}; give at least {len(parts)} "
            "(10,000 is usual)"
        )
    quotas = fair_quotas([part.num_samples for part in parts], num_samples)
    return [_choose_part(part, quota, seed) for part, quota in zip(parts, quotas, strict=True)]


def fair_quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Equal quotas that add up to `total`, each at most its size; the remainder goes to the largest."""
    quotas = [0] * len(sizes)
    remaining = min(total, sum(sizes))
    for place, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        quotas[i] = min(sizes[i], remaining // (len(sizes) - place))
        remaining -= quotas[i]
    return quotas


def _choose_part(part: Part, quota: int, seed: int) -> ChosenPart:
    rng = np.random.Generator(np.random.Philox(xxhash.xxh3_64_intdigest(part.name.encode(), seed)))
    shards = _choose_shards(part, quota, rng)
    sizes = [part.info.shards[shard].num_samples for shard in shards]
    drawn = np.sort(rng.choice(sum(sizes), quota, replace=False))
    return ChosenPart(part, tuple(_rows_of_shards(part, shards, sizes, drawn.tolist())))


def _choose_shards(part: Part, quota: int, rng: np.random.Generator) -> list[int]:
    """At most four random shards, unless the quota needs more."""
    chosen: list[int] = []
    for shard in rng.permutation(len(part.info.shards)).tolist():
        enough = sum(part.info.shards[s].num_samples for s in chosen) >= quota
        if enough and len(chosen) >= MAX_SHARDS_PER_PART:
            break
        chosen.append(shard)
    return sorted(chosen)


def _rows_of_shards(part: Part, shards: list[int], sizes: list[int], drawn: list[int]) -> Iterator[ChosenShard]:
    start = 0
    for shard, size in zip(shards, sizes, strict=True):
        first = sum(info.num_samples for info in part.info.shards[:shard])
        yield ChosenShard(shard, first, tuple(row - start for row in drawn if start <= row < start + size))
        start += size


@dataclass(frozen=True)
class RowComparison:
    """How each row of the chosen shards compares with the others, one value per row in their order."""

    same_text_R: NDArray[np.int64]
    """Rows with the same transcript, itself included; 0 without a transcript."""
    same_codes_R: NDArray[np.int64]
    has_order_R: NDArray[np.bool_]
    """Whether source, order and time are known."""
    contradictions: dict[int, str]
    """By row: how its order contradicts its time."""

    def order_conflict(self, row: int) -> str | None:
        """The contradiction of a row; None where order or time is unknown, "" where they agree."""
        return self.contradictions.get(row, "") if self.has_order_R[row] else None


def compare_rows(chosen: ChosenPart) -> RowComparison:
    texts = _column(chosen, "transcript_native") if chosen.part.kind is Kind.SPEECH else None
    codes = _column(chosen, "checksum")
    has_order_R, contradictions = _compare_order(chosen, len(codes))
    return RowComparison(
        same_text_R=_count_equal(texts) if texts is not None else np.zeros(len(codes), np.int64),
        same_codes_R=_count_equal(codes),
        has_order_R=has_order_R,
        contradictions=contradictions,
    )


def _column(chosen: ChosenPart, name: str) -> pa.ChunkedArray:
    columns = [chosen.part.shard_column(shard.shard, name) for shard in chosen.shards]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)


def _count_equal(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """How often each row's value occurs; 0 for nulls."""
    indices = values.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    counts = np.bincount(indices[indices >= 0], minlength=1)
    return np.where(indices >= 0, counts[indices], 0)


def _compare_order(chosen: ChosenPart, num_rows: int) -> tuple[NDArray[np.bool_], dict[int, str]]:
    """Later segments of a source must start later; each segment is compared with the one before it."""
    names = ("source_video_id", "segment_order", "start_time")
    table = pa.table({name: _column(chosen, name) for name in names} | {"row": pa.array(np.arange(num_rows))})
    known = table.drop_null()
    source_K = known["source_video_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order_K, start_K, row_K = (known[name].to_numpy() for name in ("segment_order", "start_time", "row"))
    along_K = np.lexsort((start_K, order_K, source_K))
    source_K, order_K, start_K, row_K = (array[along_K] for array in (source_K, order_K, start_K, row_K))
    has_order_R = np.zeros(num_rows, np.bool_)
    has_order_R[row_K] = True
    wrong = (source_K[1:] == source_K[:-1]) & ((order_K[1:] == order_K[:-1]) | (start_K[1:] < start_K[:-1]))
    pairs = [(i, i + 1) for i in np.flatnonzero(wrong).tolist()]
    return has_order_R, {int(row_K[j]): _contradiction(order_K[[i, j]], start_K[[i, j]]) for i, j in pairs}


def _contradiction(orders: NDArray, starts: NDArray) -> str:
    if orders[0] == orders[1]:
        return f"two segments of its source are number {orders[0]}"
    return f"segment {orders[1]} starts at {starts[1]:g} s, before segment {orders[0]} at {starts[0]:g} s"


_COLUMNS = ("sample_id", "speaker_id", "source_video_id", "start_time", "end_time")


@dataclass(frozen=True, eq=False)
class AuditSample:
    """One sample under audit; `number` is its index in the part."""

    sample_id: str
    part: str
    language: str
    kind: Kind
    number: int
    tokens_T: NDArray
    """Codes of speech, text ids of a text part."""
    text: str | None
    """The native transcript, or a document's text if a tokenizer is given."""
    text_ids_T: NDArray | None
    is_paired: bool
    """Whether the part has native transcripts."""
    speaker_id: str | None
    source_video_id: str | None
    duration_sec: float | None
    """end_time - start_time in the source recording."""
    num_same_text: int
    num_same_codes: int
    order_conflict: str | None
    """How its segment order contradicts its start time; None where either is unknown, "" where they agree."""

    @property
    def is_speech(self) -> bool:
        return self.kind is Kind.SPEECH

    @property
    def num_chars(self) -> int:
        """Characters of the text, white space not counted."""
        return sum(not character.isspace() for character in self.text or "")


def read_samples(chosen: ChosenPart, tokenizer: TextTokenizer | None) -> Iterator[AuditSample]:
    """Read the chosen samples of a part; without a tokenizer the text of text-only parts is None."""
    rows = compare_rows(chosen)
    first_row = 0
    for shard in chosen.shards:
        yield from _read_shard(chosen, shard, rows, first_row, tokenizer)
        first_row += chosen.part.info.shards[shard.shard].num_samples


def _read_shard(
    chosen: ChosenPart, shard: ChosenShard, rows: RowComparison, first_row: int, tokenizer: TextTokenizer | None
) -> Iterator[AuditSample]:
    part = chosen.part
    is_speech, has_text = part.kind is Kind.SPEECH, "native" in part.variants
    names = (*_COLUMNS, "transcript_native") if has_text else _COLUMNS
    columns = {name: part.shard_column(shard.shard, name).take(list(shard.rows)).to_pylist() for name in names}
    for k, row in enumerate(shard.rows):
        number = shard.first + row
        ids_T = part.text(number, "native") if has_text else None if is_speech else part.tokens(number)
        yield AuditSample(
            **{name: columns[name][k] for name in ("sample_id", "speaker_id", "source_video_id")},
            part=part.name,
            language=part.language,
            kind=part.kind,
            number=number,
            tokens_T=part.codes(number) if is_speech else part.tokens(number),
            text=columns["transcript_native"][k] if has_text else _decoded(ids_T, tokenizer),
            text_ids_T=ids_T,
            is_paired=has_text,
            duration_sec=_duration(columns, k),
            num_same_text=int(rows.same_text_R[first_row + row]),
            num_same_codes=int(rows.same_codes_R[first_row + row]),
            order_conflict=rows.order_conflict(first_row + row),
        )


def _duration(columns: dict[str, list[Any]], k: int) -> float | None:
    start, end = columns["start_time"][k], columns["end_time"][k]
    return None if start is None or end is None else end - start


def _decoded(ids_T: NDArray[np.uint32] | None, tokenizer: TextTokenizer | None) -> str | None:
    return None if ids_T is None or tokenizer is None else tokenizer.decode(ids_T.tolist())
