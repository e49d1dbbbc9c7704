"""Reading the chosen samples: all that the checks and the page need of each.

In: the chosen parts, and the tokenizer if there is one. Out: `AuditSample`s. A transcript is read from the sidecar;
the words of a text part exist as ids only and are known with a tokenizer alone. 10,000
samples take 0.2 s without a tokenizer.

Shapes: T codes or text ids of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.store.audit.choose import ChosenPart, ChosenShard
from titan_speech.store.audit.neighbours import Neighbours, neighbours
from titan_speech.store.manifest import Kind
from titan_speech.text_tokenizer import TextTokenizer

_COLUMNS = ("sample_id", "speaker_id", "source_video_id", "start_time", "end_time")


@dataclass(frozen=True, eq=False)
class AuditSample:
    """One sample under audit; `number` is its place in the part."""

    sample_id: str
    part: str
    language: str
    kind: Kind
    number: int
    tokens_T: NDArray
    """Codes of speech, text ids of a text part."""
    text: str | None
    """The native transcript, or a document's text where a tokenizer is at hand."""
    text_ids_T: NDArray | None
    is_paired: bool
    """The part has native transcripts."""
    speaker_id: str | None
    source_video_id: str | None
    duration_sec: float | None
    """By the times in the source recording."""
    num_same_text: int
    num_same_codes: int
    order: str | None

    @property
    def is_speech(self) -> bool:
        return self.kind is Kind.SPEECH

    @property
    def num_chars(self) -> int:
        """Characters of the text, white space not counted."""
        return sum(not character.isspace() for character in self.text or "")


def read_samples(chosen: ChosenPart, tokenizer: TextTokenizer | None) -> Iterator[AuditSample]:
    known = neighbours(chosen)
    first_row = 0
    for shard in chosen.shards:
        yield from _read_shard(chosen, shard, known, first_row, tokenizer)
        first_row += chosen.part.info.shards[shard.shard].num_samples


def _read_shard(
    chosen: ChosenPart, shard: ChosenShard, known: Neighbours, first_row: int, tokenizer: TextTokenizer | None
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
            num_same_text=int(known.same_text_R[first_row + row]),
            num_same_codes=int(known.same_codes_R[first_row + row]),
            order=known.order(first_row + row),
        )


def _duration(columns: dict[str, list[Any]], k: int) -> float | None:
    start, end = columns["start_time"][k], columns["end_time"][k]
    return None if start is None or end is None else end - start


def _decoded(ids_T: NDArray[np.uint32] | None, tokenizer: TextTokenizer | None) -> str | None:
    return None if ids_T is None or tokenizer is None else tokenizer.decode(ids_T.tolist())
