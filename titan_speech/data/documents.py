"""Samples of a store read as one task: the seam where views of the data are plugged in.

In: a `Part` of a store and a source's settings. Out: `Documents`: the length of every document without reading it, and
any document as views of the store between constant arrays (`Spliced`), which a pack copies once. There is one document
number per sample, so order and packing never need an index of their own; a sample that cannot be read as the task (no
transcript, no other segment of its speaker) is a document of length 0.

A view (clone pairs, stitched segments) is one more class with these two methods. Lengths come a slice at a time, so a
part of 80 M samples costs what its length columns cost.

Shapes: N documents of a slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from titan_speech.config.tables import SourceTable
from titan_speech.data.speakers import next_of_speaker
from titan_speech.prompts import Document, Frame, Grammar, Parts, Spliced, Task
from titan_speech.store.manifest import Kind
from titan_speech.store.part import Part
from titan_speech.vocabulary import CODES_PER_SEC

DESCRIPTION, USER = "description", "user"
SPLITTABLE_TASKS = frozenset({Task.SPEECH, Task.TEXT})
"""A piece of these is worth training on alone; documents of the other tasks stay whole."""


class Documents(Protocol):
    """What a stream reads."""

    part: Part

    @property
    def num_documents(self) -> int: ...

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens of documents [start, stop), framing included; 0 for a sample that cannot be read so."""
        ...

    @property
    def base(self) -> int:
        """What is added to spliced arrays to make them ids."""
        ...

    def spliced(self, i: int) -> Spliced:
        """The arrays document i is made of, end to end."""
        ...

    def document(self, i: int) -> Document: ...

    def samples(self, i: int) -> tuple[int, ...]:
        """Samples of the part that document i is made of, its target last."""
        ...


@dataclass(frozen=True)
class SampleDocuments:
    """One sample a document."""

    part: Part
    grammar: Grammar
    task: Task
    train_on: str
    transcript: str

    @property
    def num_documents(self) -> int:
        return self.part.num_samples

    @cached_property
    def frames(self) -> dict[int, Frame]:
        return self.grammar.frames(self.task)

    @property
    def base(self) -> int:
        return self.grammar.frame(self.task).base

    def samples(self, i: int) -> tuple[int, ...]:
        return (i,)

    def spliced(self, i: int) -> Spliced:
        values = self.values(i)
        return self.frames[len(values)].splice(values, self.train_on)

    def document(self, i: int) -> Document:
        values = self.values(i)
        fields = self.frames[len(values)].fields
        return self.grammar.document(self.task, Parts(**dict(zip(fields, values, strict=True))), self.train_on)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        raise NotImplementedError

    def values(self, i: int) -> tuple[NDArray, ...]:
        """What the store holds for each field of the task's template, in document order."""
        raise NotImplementedError


class SpeechDocuments(SampleDocuments):
    """Codes alone."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        code_len_N = self.part.code_len_N[start:stop]
        return np.where(code_len_N > 0, code_len_N + np.int32(self.grammar.num_framing(self.task)), np.int32(0))

    def values(self, i: int) -> tuple[NDArray, ...]:
        return (self.part.codes(i),)


class ContinuationDocuments(SpeechDocuments):
    """Codes cut into a prompt and a target; the cut depends on the sample's number alone."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        lengths_N = super().lengths(start, stop)
        return np.where(self.part.code_len_N[start:stop] >= 2, lengths_N, np.int32(0))

    def values(self, i: int) -> tuple[NDArray, ...]:
        codes_T = self.part.codes(i)
        num_prompt = num_prompt_codes(i, len(codes_T))
        return codes_T[:num_prompt], codes_T[num_prompt:]


def num_prompt_codes(i: int, num_codes: int) -> int:
    """Where sample i is cut: at 0.2 to 0.8 of it, evenly spread over any run of samples (golden ratio), and at least a
    second from either end if it has two."""
    cut = int(num_codes * (0.2 + 0.6 * (i * 0.6180339887498949 % 1.0)))
    margin = CODES_PER_SEC if num_codes >= 2 * CODES_PER_SEC else 1
    return min(max(cut, margin), num_codes - margin)


class TTSDocuments(SampleDocuments):
    """A transcript, a voice description where there is one, and the codes."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        text_len_N = self.part.text_len_N(self.transcript)[start:stop]
        lengths_N = self.part.code_len_N[start:stop] + text_len_N + np.int32(self.grammar.num_framing(self.task))
        if DESCRIPTION in self.part.variants:
            extra = self.grammar.num_framing(self.task, has_description=True) - self.grammar.num_framing(self.task)
            description_len_N = self.part.text_len_N(DESCRIPTION)[start:stop]
            lengths_N += np.where(description_len_N > 0, description_len_N + extra, 0).astype(np.int32)
        return np.where(text_len_N > 0, lengths_N, np.int32(0))

    def values(self, i: int) -> tuple[NDArray, ...]:
        values = self.part.text(i, self.transcript), self.part.codes(i)
        if DESCRIPTION not in self.part.variants:
            return values
        description_ids = self.part.text(i, DESCRIPTION)
        return (description_ids, *values) if len(description_ids) else values


class CloneDocuments(SampleDocuments):
    """A segment after another of its speaker, with both transcripts."""

    @cached_property
    def reference_N(self) -> NDArray[np.int32]:  # noqa: N802
        """Sample that stands as reference for each sample; -1 where there is none."""
        usable_N = self.part.text_len_N(self.transcript) > 0
        return next_of_speaker(self.part.column("speaker_id"), usable_N)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        reference_N = self.reference_N[start:stop]
        both_N = self.part.code_len_N + self.part.text_len_N(self.transcript)
        lengths_N = both_N[start:stop] + both_N[reference_N] + np.int32(self.grammar.num_framing(self.task))
        return np.where(reference_N >= 0, lengths_N, np.int32(0))

    def samples(self, i: int) -> tuple[int, ...]:
        return (int(self.reference_N[i]), i)

    def values(self, i: int) -> tuple[NDArray, ...]:
        part, transcript, reference = self.part, self.transcript, int(self.reference_N[i])
        return part.text(reference, transcript), part.codes(reference), part.text(i, transcript), part.codes(i)


class TextDocuments(SampleDocuments):
    """Text that is no instruction."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        code_len_N = self.part.code_len_N[start:stop]
        lengths_N = np.where(code_len_N > 0, code_len_N + np.int32(self.grammar.num_framing(self.task)), np.int32(0))
        if USER not in self.part.variants:
            return lengths_N
        return np.where(self.part.text_len_N(USER)[start:stop] == 0, lengths_N, np.int32(0))

    def values(self, i: int) -> tuple[NDArray, ...]:
        return (self.part.tokens(i),)


class InstructionDocuments(SampleDocuments):
    """A user's words and the answer."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        user_len_N = self.part.text_len_N(USER)[start:stop]
        lengths_N = self.part.code_len_N[start:stop] + user_len_N + np.int32(self.grammar.num_framing(self.task))
        return np.where(user_len_N > 0, lengths_N, np.int32(0))

    def values(self, i: int) -> tuple[NDArray, ...]:
        return self.part.text(i, USER), self.part.tokens(i)


DOCUMENTS_OF_TASK = {
    Task.SPEECH: SpeechDocuments,
    Task.CONTINUATION: ContinuationDocuments,
    Task.TTS: TTSDocuments,
    Task.CLONE: CloneDocuments,
    Task.TEXT: TextDocuments,
    Task.INSTRUCTION: InstructionDocuments,
}
KIND_OF_TASK = {task: Kind.TEXT if task in (Task.TEXT, Task.INSTRUCTION) else Kind.SPEECH for task in Task}


def required_variant(source: SourceTable) -> str | None:
    """The text variant without which a sample cannot be read as the source's task."""
    needed = {Task.TTS: source.transcript, Task.CLONE: source.transcript, Task.INSTRUCTION: USER}
    return needed.get(Task(source.task))


def documents_of(part: Part, source: SourceTable, grammar: Grammar) -> Documents:
    """The part read as the source's task."""
    task = Task(source.task)
    return DOCUMENTS_OF_TASK[task](part, grammar, task, source.train_on, source.transcript)
