"""Samples read with their text, or several as one document: tts, clone pairs, stitched segments, preference pairs.

In and out as in documents.py. Which samples belong together is computed from sidecar columns (pairing.py) and cached
next to the store.

A preference pair is a document of two answers to one prompt, the samples X/chosen and X/rejected, which stays in one
pack; where the answers were to have the voice of a recording, that is the sample X/voice. Pairs that cannot be compared
are refused before training begins.

Shapes: N documents of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from titan_speech.data.documents import DESCRIPTION, Documents
from titan_speech.data.pairing import (
    Chains,
    OrderContradictionError,
    Spans,
    encode_names,
    partners,
    references,
    stitch,
)
from titan_speech.errors import DataError
from titan_speech.store.reader import Part
from titan_speech.store.sample import CHOSEN, REJECTED, VOICE, SampleRow
from titan_speech.tokenization.token_runs import TokenRuns


class TTSDocuments(Documents):
    """A voice description if the sample has one, its transcript, and its codes."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        text_len_N = self.text_len_N(start, stop)
        lengths_N = self.part.code_len_N[start:stop] + text_len_N + self.num_fixed_tokens
        if DESCRIPTION in self.part.variants:
            extra = self.grammar.num_fixed_tokens(self.task, has_description=True) - self.num_fixed_tokens
            description_len_N = self.part.text_len_N(DESCRIPTION)[start:stop]
            lengths_N += np.where(description_len_N > 0, description_len_N + extra, 0).astype(np.int32)
        return np.where(text_len_N > 0, lengths_N, np.int32(0))

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        columns = self.text(numbers), self.tokens(numbers)
        return columns if DESCRIPTION not in self.variants else (self.description(numbers), *columns)

    def token_runs(self, numbers: Sequence[int]) -> TokenRuns:
        token_runs = super().token_runs(numbers)
        if DESCRIPTION in self.variants:
            opening = self.grammar.template(self.task, has_description=False).fixed_ids[0].data
            for document, description_ids in enumerate(self.description(numbers)):
                if not len(description_ids):
                    token_runs.drop_first_block(document, opening)
        return token_runs


class CloneDocuments(Documents):
    """A segment after another of its speaker, with both transcripts, both together not above the sequence length."""

    @cached_property
    def reference_N(self) -> NDArray[np.int32]:  # noqa: N802
        """The reference of each sample; -1 if it has none."""
        return self.cached(self._references)

    def _references(self) -> NDArray[np.int32]:
        text_len_N = self.text_len_N(0, self.part.num_samples)
        length_N = np.where(text_len_N > 0, self.part.code_len_N + text_len_N, np.int32(0))
        speaker_N = encode_names(self.part.column("speaker_id"))
        max_length = self.seq_len - int(self.num_fixed_tokens)
        return references(speaker_N, length_N, spans_of(self.part), max_length)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        reference_N = self.reference_N[start:stop]
        code_len_N, text_len_N = self.part.code_len_N, self.text_len_N(0, self.part.num_samples)
        lengths_N = code_len_N[start:stop] + text_len_N[start:stop] + self.num_fixed_tokens
        lengths_N += code_len_N[reference_N] + text_len_N[reference_N]
        return np.where(reference_N >= 0, lengths_N, np.int32(0))

    def samples(self, i: int) -> tuple[int, ...]:
        return (int(self.reference_N[i]), i)

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        references = self.reference_N[numbers].tolist()
        return self.text(references), self.tokens(references), self.text(numbers), self.tokens(numbers)


@dataclass(frozen=True)
class StitchedDocuments(Documents):
    """Neighbouring segments of one recording and speaker as one document of speech."""

    max_gap_sec: float = 0.0

    @cached_property
    def chains(self) -> Chains:
        return Chains(*self.cached(lambda: np.stack(self._chains())))

    def _chains(self) -> Chains:
        part = self.part
        number_N = pc.fill_null(part.column("segment_order"), -1).to_numpy().astype(np.int64)
        speaker_N = encode_names(part.column("speaker_id"))
        max_length = self.seq_len - int(self.num_fixed_tokens)
        try:
            return stitch(spans_of(part), speaker_N, number_N, part.code_len_N, self.max_gap_sec, max_length)
        except OrderContradictionError as found:
            first, second = (part.row(i) for i in (found.earlier, found.later))
            raise DataError(
                f"part {part.name}: segments of one recording are numbered against their times: "
                f"{_segment_text(first)}, {_segment_text(second)}, and {found.count - 1:,} more such pairs; "
                "correct segment_order or start_time and build the store again, or leave out stitch_gap_sec"
            ) from None

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        length_N = self.chains.length_N[start:stop]
        return np.where(length_N > 0, length_N + self.num_fixed_tokens, np.int32(0))

    def samples(self, i: int) -> tuple[int, ...]:
        return self.chains.samples(i)

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        """The segments of a document are copied into one run."""
        return ([memoryview(b"".join(self.tokens(self.samples(i)))).cast("H") for i in numbers],)


def _segment_text(row: SampleRow) -> str:
    return f"{row.sample_id} is number {row.segment_order} at {row.start_time} s"


def spans_of(part: Part) -> Spans:
    """The times of a part's samples in their recordings; nan if unknown."""
    starts, ends = (part.column(name).to_numpy().astype(np.float64) for name in ("start_time", "end_time"))
    return Spans(encode_names(part.column("source_video_id")), starts, ends)


class PreferenceDocuments(TTSDocuments):
    """Two answers to one prompt, each a tts document, which stay in one pack: a chosen sample with the rejected one of
    its prompt. Its length is that of both; `answers` has the two."""

    @cached_property
    def rejected_N(self) -> NDArray[np.int32]:  # noqa: N802
        """The rejected answer of each chosen sample; -1 if it has none, or one of the two cannot be read."""
        return self.cached(self._pairs)

    @cached_property
    def answer_len_N(self) -> NDArray[np.int32]:  # noqa: N802
        """Tokens of each answer with its prompt."""
        return super().lengths(0, self.part.num_samples)

    def _pairs(self) -> NDArray[np.int32]:
        rejected_N = partners(self.part.column("sample_id"), CHOSEN, REJECTED)
        is_read_N = (rejected_N >= 0) & (self.answer_len_N > 0) & (self.answer_len_N[rejected_N] > 0)
        chosen = np.flatnonzero(is_read_N)
        self._refuse_unfit(chosen, rejected_N[chosen])
        return np.where(is_read_N, rejected_N, np.int32(-1))

    def _refuse_unfit(self, chosen: NDArray, rejected: NDArray) -> None:
        """Equal answers have no preference, and answers to two prompts cannot be compared."""
        column = self.part.column(f"transcript_{self.transcript}")
        other = pc.not_equal(column.take(pa.array(chosen)), column.take(pa.array(rejected)))
        checksum_N = self.part.column("checksum").to_numpy()
        unfit = {
            "have equal answers": chosen[checksum_N[chosen] == checksum_N[rejected]],
            "answer different prompts": chosen[pc.fill_null(other, False).to_numpy()],
        }
        lines = [
            f"{len(pairs):,} pairs {what}, such as {self.part.row(int(pairs[0])).sample_id}"
            for what, pairs in unfit.items()
            if len(pairs)
        ]
        if lines:
            raise DataError(
                f"part {self.part.name}: {'; '.join(lines)}; a pair is two different answers X/chosen and X/rejected "
                "to one prompt: leave such pairs out and build the store again"
            )

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        rejected_N = self.rejected_N[start:stop]
        lengths_N = self.answer_len_N[start:stop] + self.answer_len_N[rejected_N]
        return np.where(rejected_N >= 0, lengths_N, np.int32(0))

    def answers(self, i: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Number and tokens of the chosen and of the rejected answer of document i."""
        rejected = int(self.rejected_N[i])
        return (i, int(self.answer_len_N[i])), (rejected, int(self.answer_len_N[rejected]))


class ClonePreferenceDocuments(PreferenceDocuments):
    """Two answers to one prompt in one voice, each a clone document after the sample X/voice."""

    @cached_property
    def voice_N(self) -> NDArray[np.int32]:  # noqa: N802
        """The recording before each answer; -1 if it has none, and for other samples."""
        ids_N = self.part.column("sample_id")
        return np.maximum(*(partners(ids_N, end, VOICE) for end in (CHOSEN, REJECTED)))

    @cached_property
    def answer_len_N(self) -> NDArray[np.int32]:  # noqa: N802
        text_len_N = self.text_len_N(0, self.part.num_samples)
        own_len_N = self.part.code_len_N + text_len_N
        lengths_N = own_len_N + own_len_N[self.voice_N] + self.num_fixed_tokens
        is_read_N = (self.voice_N >= 0) & (text_len_N > 0) & (text_len_N[self.voice_N] > 0)
        return np.where(is_read_N, lengths_N, np.int32(0))

    def samples(self, i: int) -> tuple[int, ...]:
        return (int(self.voice_N[i]), i)

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        voices = self.voice_N[numbers].tolist()
        return self.text(voices), self.tokens(voices), self.text(numbers), self.tokens(numbers)


def has_voices(part: Part) -> bool:
    """Whether pairs of a part answer in the voice of a recording."""
    return bool(pc.any(pc.ends_with(part.column("sample_id"), VOICE)).as_py())
