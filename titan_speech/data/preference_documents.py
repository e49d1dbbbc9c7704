"""Pairs of answers to one prompt, for preference training.

In: a part of a store with samples X/chosen and X/rejected, and X/voice where the answers were to have its voice. Out:
one document per pair, which stays in one pack, and where its two answers end. Pairs that cannot be compared are refused
before training begins.

Shapes: N documents of a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from titan_speech.data.paired_documents import TTSDocuments
from titan_speech.data.pairing import partners
from titan_speech.errors import DataError
from titan_speech.store.reader import Part
from titan_speech.store.sample import CHOSEN, REJECTED, VOICE


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
