"""Samples of a store read as one task.

In: a `Part` of a store and a source's settings. Out: `Documents`: the length of every document without reading it, and
the tokens of any documents as views of the store between template tokens, which a batch copies once
(tokenization/token_runs.py).
There is one document number per sample, so order and packing need no index of their own; a sample that cannot be read
as the task (no transcript, no other segment of its speaker) is a document of length 0.

A new task is one more class with these methods. Lengths are computed for a slice at a time, so a part of 80 M samples
costs what its length columns cost.

Shapes: N documents of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from titan_speech.config.schema_data import SourceConfig
from titan_speech.data.pairing import (
    Chains,
    OrderContradictionError,
    Spans,
    encode_names,
    references,
    rejected_answers,
    stitch,
)
from titan_speech.errors import DataError
from titan_speech.store.derived_cache import MIN_ITEMS, derived_array, derived_folder, key_of
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Part, SampleReader
from titan_speech.store.sample import SampleRow
from titan_speech.tokenization.prompt_template import (
    PREFERENCE,
    CompiledTemplate,
    Document,
    Grammar,
    Parts,
    Task,
    template_task,
)
from titan_speech.tokenization.token_runs import TokenRuns
from titan_speech.tokenization.vocabulary import CODES_PER_SEC

VIEWS_VERSION = 1  # raised when the same samples would make other clone pairs or stitched documents
DESCRIPTION, USER = "description", "user"
_NOT_IN_KEY = frozenset(
    {"part", "grammar", "train_on"}
)  # grammar and part have keys of their own; masks have no length
SPLITTABLE_TASKS = frozenset({Task.SPEECH, Task.TEXT})
"""A piece of these is worth training on alone; documents of the other tasks stay whole."""


class Documents(Protocol):
    """What a stream reads."""

    @property
    def part(self) -> Part: ...

    @property
    def variants(self) -> tuple[str, ...]:
        """Text variants of the part that are read."""
        ...

    @property
    def num_documents(self) -> int: ...

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens of documents [start, stop), template tokens included; 0 if the sample cannot be read as the task."""
        ...

    @property
    def key(self) -> str:
        """Changes with whatever changes the lengths."""
        ...

    @property
    def first_code_id(self) -> int:
        """Id of code 0."""
        ...

    def token_runs(self, numbers: Sequence[int]) -> TokenRuns:
        """The tokens of these documents, as views of the store."""
        ...

    def document(self, i: int) -> Document: ...

    def samples(self, i: int) -> tuple[int, ...]:
        """The samples of document i; the target is the last."""
        ...


@dataclass(frozen=True)
class SampleDocuments:
    """One document per sample."""

    part: Part
    grammar: Grammar
    task: Task
    train_on: str
    transcript: str
    seq_len: int

    def __reduce__(self) -> tuple[type[SampleDocuments], tuple[object, ...]]:
        """Cached columns of the part are not sent to worker processes."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @property
    def num_documents(self) -> int:
        return self.part.num_samples

    @property
    def key(self) -> str:
        settings = [str(getattr(self, field.name)) for field in fields(self) if field.name not in _NOT_IN_KEY]
        framing = [template.num_fixed_tokens for template in self.grammar.templates(self.task)]
        return key_of(VIEWS_VERSION, type(self).__name__, self.part.key, settings, framing)

    def cached(self, make: Callable[[], NDArray]) -> NDArray:
        """An array over all samples of the part, cached next to the store if there are many."""
        if self.part.num_samples < MIN_ITEMS:
            return make()
        return derived_array(derived_folder(self.part.place), self.key, make)

    @property
    def variants(self) -> tuple[str, ...]:
        paired = (self.transcript, DESCRIPTION) if self.task is Task.TTS else (self.transcript,)
        wanted = {Task.TTS: paired, Task.CLONE: paired, Task.INSTRUCTION: (USER,)}.get(self.task, ())
        return tuple(variant for variant in wanted if variant in self.part.variants)

    @cached_property
    def tokens(self) -> SampleReader:
        """Codes of samples, or the ids of text samples."""
        return self.part.reader()

    @cached_property
    def text(self) -> SampleReader:
        """Ids of samples' transcripts."""
        return self.part.reader(self.transcript)

    @cached_property
    def description(self) -> SampleReader:
        """Ids of samples' voice descriptions; empty if a sample has none."""
        return self.part.reader(DESCRIPTION)

    @cached_property
    def user(self) -> SampleReader:
        """Ids of the user's turn of instructions."""
        return self.part.reader(USER)

    @cached_property
    def template(self) -> CompiledTemplate:
        """With the optional block, if any document of the part can have it."""
        return self.grammar.template(self.task, has_description=DESCRIPTION in self.variants)

    @property
    def first_code_id(self) -> int:
        return self.grammar.vocabulary.first_code_id

    def samples(self, i: int) -> tuple[int, ...]:
        return (i,)

    def token_runs(self, numbers: Sequence[int]) -> TokenRuns:
        return self.template.assemble(self.columns(numbers), self.train_on)

    def document(self, i: int) -> Document:
        values = [np.asarray(column[0]) for column in self.columns([i])]
        named = dict(zip(self.template.fields, values, strict=True))
        return self.grammar.document(self.task, Parts(**named), self.train_on)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        raise NotImplementedError

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        """Stored values of these documents: for each field of the task's template one list, in document order."""
        raise NotImplementedError


class SpeechDocuments(SampleDocuments):
    """Codes alone."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        code_len_N = self.part.code_len_N[start:stop]
        return np.where(code_len_N > 0, code_len_N + np.int32(self.grammar.num_fixed_tokens(self.task)), np.int32(0))

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        return (self.tokens(numbers),)


class ContinuationDocuments(SpeechDocuments):
    """Codes cut into a prompt and a target; the cut depends on the sample's number alone."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        lengths_N = super().lengths(start, stop)
        return np.where(self.part.code_len_N[start:stop] >= 2, lengths_N, np.int32(0))

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        codes = self.tokens(numbers)
        borders = list(map(num_prompt_codes, numbers, map(len, codes)))
        prompts = [codes_T[:border] for codes_T, border in zip(codes, borders, strict=True)]
        return prompts, [codes_T[border:] for codes_T, border in zip(codes, borders, strict=True)]


def num_prompt_codes(i: int, num_codes: int) -> int:
    """Where sample i is cut: at 0.2 to 0.8 of it, evenly spread over any run of samples (golden ratio), and at least a
    second from either end if it has two."""
    cut = int(num_codes * (0.2 + 0.6 * (i * 0.6180339887498949 % 1.0)))
    margin = CODES_PER_SEC if num_codes >= 2 * CODES_PER_SEC else 1
    return min(max(cut, margin), num_codes - margin)


class TTSDocuments(SampleDocuments):
    """A voice description if the sample has one, its transcript, and its codes."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        text_len_N = self.part.text_len_N(self.transcript)[start:stop]
        lengths_N = self.part.code_len_N[start:stop] + text_len_N + np.int32(self.grammar.num_fixed_tokens(self.task))
        if DESCRIPTION in self.part.variants:
            extra = self.grammar.num_fixed_tokens(self.task, has_description=True) - self.grammar.num_fixed_tokens(
                self.task
            )
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


class CloneDocuments(SampleDocuments):
    """A segment after another of its speaker, with both transcripts, both together not above the sequence length."""

    @cached_property
    def reference_N(self) -> NDArray[np.int32]:  # noqa: N802
        """The reference of each sample; -1 if it has none."""
        return self.cached(self._references)

    def _references(self) -> NDArray[np.int32]:
        text_len_N = self.part.text_len_N(self.transcript)
        length_N = np.where(text_len_N > 0, self.part.code_len_N + text_len_N, np.int32(0))
        speaker_N = encode_names(self.part.column("speaker_id"))
        max_length = self.seq_len - self.grammar.num_fixed_tokens(self.task)
        return references(speaker_N, length_N, spans_of(self.part), max_length)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        reference_N = self.reference_N[start:stop]
        code_len_N, text_len_N = self.part.code_len_N, self.part.text_len_N(self.transcript)
        lengths_N = code_len_N[start:stop] + text_len_N[start:stop] + np.int32(self.grammar.num_fixed_tokens(self.task))
        lengths_N += code_len_N[reference_N] + text_len_N[reference_N]
        return np.where(reference_N >= 0, lengths_N, np.int32(0))

    def samples(self, i: int) -> tuple[int, ...]:
        return (int(self.reference_N[i]), i)

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        references = self.reference_N[numbers].tolist()
        return self.text(references), self.tokens(references), self.text(numbers), self.tokens(numbers)


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
        rejected_N = rejected_answers(self.part.column("sample_id"))
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


@dataclass(frozen=True)
class StitchedDocuments(SampleDocuments):
    """Neighbouring segments of one recording and speaker as one document of speech."""

    max_gap_sec: float = 0.0

    @cached_property
    def chains(self) -> Chains:
        return Chains(*self.cached(lambda: np.stack(self._chains())))

    def _chains(self) -> Chains:
        part = self.part
        number_N = pc.fill_null(part.column("segment_order"), -1).to_numpy().astype(np.int64)
        speaker_N = encode_names(part.column("speaker_id"))
        max_length = self.seq_len - self.grammar.num_fixed_tokens(self.task)
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
        return np.where(length_N > 0, length_N + np.int32(self.grammar.num_fixed_tokens(self.task)), np.int32(0))

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


class TextDocuments(SampleDocuments):
    """Text that is not an instruction."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        code_len_N = self.part.code_len_N[start:stop]
        lengths_N = np.where(
            code_len_N > 0, code_len_N + np.int32(self.grammar.num_fixed_tokens(self.task)), np.int32(0)
        )
        if USER not in self.part.variants:
            return lengths_N
        return np.where(self.part.text_len_N(USER)[start:stop] == 0, lengths_N, np.int32(0))

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        return (self.tokens(numbers),)


class InstructionDocuments(SampleDocuments):
    """The user's turn and the answer."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        user_len_N = self.part.text_len_N(USER)[start:stop]
        lengths_N = self.part.code_len_N[start:stop] + user_len_N + np.int32(self.grammar.num_fixed_tokens(self.task))
        return np.where(user_len_N > 0, lengths_N, np.int32(0))

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        return self.user(numbers), self.tokens(numbers)


DOCUMENTS_OF_TASK = {
    Task.SPEECH: SpeechDocuments,
    Task.CONTINUATION: ContinuationDocuments,
    Task.TTS: TTSDocuments,
    Task.CLONE: CloneDocuments,
    Task.TEXT: TextDocuments,
    Task.INSTRUCTION: InstructionDocuments,
}
KIND_OF_TASK = {task: Kind.TEXT if task in (Task.TEXT, Task.INSTRUCTION) else Kind.SPEECH for task in Task}


def required_variant(source: SourceConfig) -> str | None:
    """The text variant without which a sample cannot be read as the source's task."""
    needed = {Task.TTS: source.transcript, Task.CLONE: source.transcript, Task.INSTRUCTION: USER}
    return needed.get(template_task(source.task))


def is_splittable(source: SourceConfig) -> bool:
    """Whether the source's documents may be cut where a pack ends."""
    return template_task(source.task) in SPLITTABLE_TASKS and source.stitch_gap_sec is None


def documents_of(part: Part, source: SourceConfig, grammar: Grammar, seq_len: int) -> Documents:
    """The part read as the source's task; clone pairs and stitched documents fit the sequence length."""
    task = template_task(source.task)
    settings = (part, grammar, task, source.train_on, source.transcript, seq_len)
    if source.task == PREFERENCE:
        return PreferenceDocuments(*settings)
    if source.stitch_gap_sec is not None:
        return StitchedDocuments(*settings, max_gap_sec=source.stitch_gap_sec)
    return DOCUMENTS_OF_TASK[task](*settings)
