"""Documents of a part of a store, and those of one sample each: speech, a continuation, text, an instruction.

In: a `Part` of a store and a source's settings. Out: `Documents`: the length of every document without reading it, and
the tokens of any documents as views of the store between template tokens, which a batch copies once
(tokenization/token_runs.py).
There is one document number per sample, so order and packing need no index of their own; a sample that cannot be read
as the task (no transcript, no other segment of its speaker) is a document of length 0.

A new task is one more class with these methods, named in sources.py. Lengths are computed for a slice at a time,
so a part of 80 M samples costs what its length columns cost.

Shapes: N documents of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from titan_speech.data.pairing import GOLDEN_RATIO
from titan_speech.store.derived_cache import derived_if_many, key_of
from titan_speech.store.reader import Part, SampleReader
from titan_speech.tokenization.prompt_template import CompiledTemplate, Document, Grammar, Parts, Task
from titan_speech.tokenization.token_runs import TokenRuns
from titan_speech.tokenization.vocabulary import CODES_PER_SEC

VIEWS_VERSION = 1  # raised when the same samples would make other clone pairs or stitched documents
DESCRIPTION, USER = "description", "user"
SPREAD = 0.7548776662466927
"""Its multiples are too, and unlike those of the golden ratio, by which prompts are cut."""
_NOT_IN_KEY = frozenset({"part", "grammar", "train_on"})  # the first two have keys of their own; masks have no length


@dataclass(frozen=True)
class Documents:
    """What a stream reads: one document per sample of a part. A task is a subclass with `lengths` and `columns`."""

    part: Part
    grammar: Grammar
    task: Task
    """The task whose template the documents have."""
    train_on: str
    transcript: str
    seq_len: int
    augment: tuple[tuple[str, float], ...] = ()
    """Other variants of the transcript, and the share of samples that are read with each."""

    def __reduce__(self) -> tuple[type[Documents], tuple[object, ...]]:
        """Cached columns of the part are not sent to worker processes."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @property
    def num_documents(self) -> int:
        return self.part.num_samples

    @property
    def key(self) -> str:
        """Changes with whatever changes the lengths."""
        names = [field.name for field in fields(self) if field.name not in _NOT_IN_KEY]
        settings = [str(getattr(self, name)) for name in names if name != "augment" or self.augment]
        framing = [template.num_fixed_tokens for template in self.grammar.templates(self.task)]
        return key_of(VIEWS_VERSION, type(self).__name__, self.part.key, settings, framing)

    def cached(self, make: Callable[[], NDArray]) -> NDArray:
        """An array over all samples of the part, cached next to the store if there are many."""
        return derived_if_many(self.part.place, self.part.num_samples, self.key, make)

    @property
    def variants(self) -> tuple[str, ...]:
        """Text variants of the part that are read."""
        spoken = (self.transcript, *(variant for variant, _ in self.augment))
        paired = (*spoken, DESCRIPTION) if self.task is Task.TTS else spoken
        wanted = {Task.TTS: paired, Task.CLONE: paired, Task.INSTRUCTION: (USER,)}.get(self.task, ())
        return tuple(variant for variant in wanted if variant in self.part.variants)

    @cached_property
    def tokens(self) -> SampleReader:
        """Codes of samples, or the ids of text samples."""
        return self.part.reader()

    def text_len_N(self, start: int, stop: int) -> NDArray[np.int32]:  # noqa: N802
        """Tokens of the transcripts that samples [start, stop) are read with; 0 where one has none."""
        length_N = self.part.text_len_N(self.transcript)[start:stop]
        for variant, chosen_N in self._augmented(np.arange(start, stop)):
            other_N = self.part.text_len_N(variant)[start:stop]
            length_N = np.where(chosen_N & (other_N > 0), other_N, length_N)
        return length_N

    def text(self, numbers: Sequence[int]) -> list[memoryview]:
        """Ids of the transcripts that samples are read with."""
        found = self._readers[self.transcript](numbers)
        if not self.augment:
            return found
        for variant, chosen_N in self._augmented(np.asarray(numbers)):
            for row in np.flatnonzero(chosen_N).tolist():
                if len(other := self._readers[variant]([numbers[row]])[0]):
                    found[row] = other
        return found

    @cached_property
    def _readers(self) -> dict[str, SampleReader]:
        return {variant: self.part.reader(variant) for variant in self.variants if variant != DESCRIPTION}

    def _augmented(self, number_N: NDArray) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Each other variant, and which samples are read with it; evenly spread over any run of samples."""
        place_N = number_N * SPREAD % 1.0
        start = 0.0
        for variant, share in self.augment:
            if variant in self.part.variants:
                yield variant, (place_N >= start) & (place_N < start + share)
            start += share

    @cached_property
    def description(self) -> SampleReader:
        """Ids of samples' voice descriptions; empty if a sample has none."""
        return self.part.reader(DESCRIPTION)

    @cached_property
    def template(self) -> CompiledTemplate:
        """With the optional block, if any document of the part can have it."""
        return self.grammar.template(self.task, has_description=DESCRIPTION in self.variants)

    @property
    def first_code_id(self) -> int:
        """Id of code 0."""
        return self.grammar.vocabulary.first_code_id

    @cached_property
    def num_fixed_tokens(self) -> np.int32:
        """Tokens of the template, without its optional block."""
        return np.int32(self.grammar.num_fixed_tokens(self.task))

    def samples(self, i: int) -> tuple[int, ...]:
        """The samples of document i; the target is the last."""
        return (i,)

    def token_runs(self, numbers: Sequence[int]) -> TokenRuns:
        """The tokens of these documents, as views of the store."""
        return self.template.assemble(self.columns(numbers), self.train_on)

    def document(self, i: int) -> Document:
        values = [np.asarray(column[0]) for column in self.columns([i])]
        named = dict(zip(self.template.fields, values, strict=True))
        return self.grammar.document(self.task, Parts(**named), self.train_on)

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        """Tokens of documents [start, stop), template tokens included; 0 if the sample cannot be read as the task."""
        raise NotImplementedError

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        """Stored values of these documents: for each field of the task's template one list, in document order."""
        raise NotImplementedError


class PlainDocuments(Documents):
    """The codes, or the ids of a text sample, alone."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        code_len_N = self.part.code_len_N[start:stop]
        return np.where(code_len_N > 0, code_len_N + self.num_fixed_tokens, np.int32(0))

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        return (self.tokens(numbers),)


class SpeechDocuments(PlainDocuments):
    """Codes alone."""


class ContinuationDocuments(PlainDocuments):
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
    cut = int(num_codes * (0.2 + 0.6 * (i * GOLDEN_RATIO % 1.0)))
    margin = CODES_PER_SEC if num_codes >= 2 * CODES_PER_SEC else 1
    return min(max(cut, margin), num_codes - margin)


class TextDocuments(PlainDocuments):
    """Text that is not an instruction."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        lengths_N = super().lengths(start, stop)
        if USER not in self.part.variants:
            return lengths_N
        return np.where(self.part.text_len_N(USER)[start:stop] == 0, lengths_N, np.int32(0))


class InstructionDocuments(Documents):
    """The user's turn and the answer."""

    def lengths(self, start: int, stop: int) -> NDArray[np.int32]:
        user_len_N = self.part.text_len_N(USER)[start:stop]
        lengths_N = self.part.code_len_N[start:stop] + user_len_N + self.num_fixed_tokens
        return np.where(user_len_N > 0, lengths_N, np.int32(0))

    def columns(self, numbers: Sequence[int]) -> tuple[list[memoryview], ...]:
        return self._readers[USER](numbers), self.tokens(numbers)
