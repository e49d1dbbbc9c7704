"""The one grammar: how a sample becomes the tokens a model trains on and is decoded from.

In: a task and its parts (text ids, codes). Out: the prefix decoding starts with, the whole document with a mask of
the tokens that are training targets, or its runs without a copy (splice.py), for a pack to copy once; all from one
`Frame`.

    speech        bos <|speech_start|> | codes <|speech_end|>
    continuation  bos <|speech_start|> prompt_codes <|speech_sep|> | codes <|speech_end|>
    tts           bos [voice_description block] text block <|speech_start|> | codes <|speech_end|>
    clone         bos ref_text, ref_speech, target_text blocks <|speech_start|> | codes <|speech_end|>
    text          bos | text eos
    instruction   bos user block <|assistant_start|> | assistant <|assistant_end|> eos

A block is <|x_start|> ... <|x_end|>; what is left of the bar is the prefix. The grammar is one table, compiled for a
vocabulary: the runs of a tts document take a small part of the time that one array of its ids with a mask takes.

Shapes: T tokens of a document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.tokenization.token_runs import TokenRuns, merge_runs
from titan_speech.tokenization.vocabulary import Vocabulary


class Task(StrEnum):
    """How a sample is read; the values are those of `task` in the configuration."""

    SPEECH = "speech"
    CONTINUATION = "continuation"
    TTS = "tts"
    CLONE = "clone"
    TEXT = "text"
    INSTRUCTION = "instruction"


@dataclass(frozen=True)
class Parts:
    """What a document is made of: codes and text ids as a store holds them, neither shifted nor framed.

    uint16 codes and uint32 text ids are taken as checked (a store checks them when a file is opened); arrays
    of any other type are range-checked here.
    """

    text_ids: NDArray | None = None
    codes: NDArray | None = None
    ref_text_ids: NDArray | None = None
    ref_codes: NDArray | None = None
    description_ids: NDArray | None = None
    """Voice description of a tts document; None and empty both mean none."""
    prompt_codes: NDArray | None = None
    user_ids: NDArray | None = None
    assistant_ids: NDArray | None = None


@dataclass(frozen=True)
class Document:
    """Tokens of one document; trained_T[t] says whether token t is a training target (BOS never is)."""

    ids_T: NDArray[np.int32]
    trained_T: NDArray[np.bool_]
    num_prefix_tokens: int


@dataclass(frozen=True)
class Block:
    """Opening tokens, one field of `Parts`, closing tokens."""

    opening: tuple[str, ...]
    field: str
    closing: tuple[str, ...]
    optional: bool = False

    def __repr__(self) -> str:
        """Part of `TemplateParts.identity`, so it does not change with names in the code."""
        return (
            f"Block(opening={self.opening!r}, field={self.field!r}, closing={self.closing!r}, "
            f"optional={self.optional!r})"
        )


@dataclass(frozen=True)
class TemplateParts:
    """A task's document: blocks, what stands between them and the target, the target and its end."""

    prefix: tuple[Block, ...]
    start: tuple[str, ...]
    """Last tokens of the prefix."""
    target: str
    closing: tuple[str, ...]
    """Generated tokens after the target; the first of them is where decoding stops."""

    @property
    def identity(self) -> str:
        """What fingerprints are made of: as plans and checkpoints have recorded it since 0.1, whatever this class is
        called."""
        fields = (f"{name}={getattr(self, name)!r}" for name in ("prefix", "start", "target", "closing"))
        return f"Template({', '.join(fields)})"


BOS, EOS = "<bos>", "<eos>"


def _block(name: str, field: str, optional: bool = False) -> Block:
    return Block((f"<|{name}_start|>",), field, (f"<|{name}_end|>",), optional)


_SPEECH_START, _SPEECH_END = ("<|speech_start|>",), ("<|speech_end|>",)
TEMPLATES = {
    Task.SPEECH: TemplateParts((), _SPEECH_START, "codes", _SPEECH_END),
    Task.CONTINUATION: TemplateParts(
        (Block(_SPEECH_START, "prompt_codes", ("<|speech_sep|>",)),), (), "codes", _SPEECH_END
    ),
    Task.TTS: TemplateParts(
        (_block("voice_description", "description_ids", optional=True), _block("text", "text_ids")),
        _SPEECH_START,
        "codes",
        _SPEECH_END,
    ),
    Task.CLONE: TemplateParts(
        (
            _block("ref_text", "ref_text_ids"),
            _block("ref_speech", "ref_codes"),
            _block("target_text", "text_ids"),
        ),
        _SPEECH_START,
        "codes",
        _SPEECH_END,
    ),
    Task.TEXT: TemplateParts((), (), "text_ids", (EOS,)),
    Task.INSTRUCTION: TemplateParts(
        (_block("user", "user_ids"),), ("<|assistant_start|>",), "assistant_ids", ("<|assistant_end|>", EOS)
    ),
}
CODE_FIELDS = frozenset({"codes", "ref_codes", "prompt_codes"})


@dataclass(frozen=True)
class PromptTemplate:
    """A template in ids: framing[0] field[0] framing[1] field[1] ... field[-1] framing[-1], the last field the target.

    What does not depend on the document is worked out once: which runs there are, and in what order.
    """

    fields: tuple[str, ...]
    framing: tuple[NDArray[np.uint32], ...]
    """What stands before each field, and what ends the document."""

    def __reduce__(self) -> tuple[type[PromptTemplate], tuple[object, ...]]:
        """Views do not go to a worker process."""
        return PromptTemplate, (self.fields, self.framing)

    @cached_property
    def num_framing(self) -> int:
        return sum(map(len, self.framing))

    @cached_property
    def _is_code(self) -> bytes:
        """For each run of a document whether it is codes: framing and fields take turns."""
        return bytes(flag for field in self.fields for flag in (0, field in CODE_FIELDS)) + b"\0"

    @cached_property
    def _lengths(self) -> list[int]:
        """Of the runs of a document without its values: 0 stands where they go."""
        return [length for row in self.framing for length in (len(row), 0)][:-1]

    @cached_property
    def _words(self) -> list[memoryview]:
        """Of a document without its values: a row of framing stands where text goes."""
        return [self.framing[i // 2].data for i, is_code in enumerate(self._is_code) if not is_code]

    @cached_property
    def _text_fields(self) -> list[tuple[int, int]]:
        """Where in `_words` each field of text goes."""
        places = [i for i, is_code in enumerate(self._is_code) if not is_code]
        return [(places.index(2 * i + 1), i) for i, field in enumerate(self.fields) if field not in CODE_FIELDS]

    @cached_property
    def _code_fields(self) -> list[int]:
        return [i for i, field in enumerate(self.fields) if field in CODE_FIELDS]

    def splice(self, columns: Sequence[Sequence[memoryview]], train_on: str) -> TokenRuns:
        """The documents of these stored values: for each field a list with one value a document."""
        num_documents, num_runs = len(columns[0]), len(self._lengths)
        lengths = self._lengths * num_documents
        for i, column in enumerate(columns):
            lengths[2 * i + 1 :: num_runs] = map(len, column)
        num_tokens = list(map(sum, zip(*[iter(lengths)] * num_runs, strict=True)))
        num_untrained = [1] * num_documents
        if train_on != "all":
            num_closing = len(self.framing[-1])
            num_untrained = [
                total - len(target) - num_closing for total, target in zip(num_tokens, columns[-1], strict=True)
            ]
        return TokenRuns(
            self._with_text(columns, num_documents),
            self._codes_of(columns, num_documents),
            lengths,
            self._is_code,
            num_tokens,
            num_untrained,
        )

    def _with_text(self, columns: Sequence[Sequence[memoryview]], num_documents: int) -> list[memoryview]:
        words, num_words = self._words * num_documents, len(self._words)
        for place, i in self._text_fields:
            words[place::num_words] = columns[i]
        return words

    def _codes_of(self, columns: Sequence[Sequence[memoryview]], num_documents: int) -> list[memoryview]:
        """In the order of the documents."""
        fields = self._code_fields
        codes: list[memoryview] = [*columns[0]] * len(fields)
        for place, i in enumerate(fields):
            codes[place :: len(fields)] = columns[i]
        return codes


class Grammar:
    """The templates in the ids of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._frames = {
            (task, has_description): self._frame(template, has_description)
            for task, template in TEMPLATES.items()
            for has_description in (False, True)
        }

    def prefix(self, task: Task, parts: Parts) -> NDArray[np.int32]:
        """What decoding is started with; the target's field of `parts` may be absent."""
        _refuse_foreign(task, parts)
        frame = self.frame(task, _has_description(parts))
        values = [self._checked(task, field, getattr(parts, field)) for field in frame.fields[:-1]]
        empty = np.empty(0, np.uint16 if frame.fields[-1] in CODE_FIELDS else np.uint32)
        spliced = frame.splice([[value.data] for value in (*values, empty)], "all")
        spliced.cut(0, 0, spliced.num_tokens[0] - len(frame.framing[-1]))
        return self._ids(spliced)

    def document(self, task: Task, parts: Parts, train_on: str = "all") -> Document:
        """`train_on` "all": every token but BOS; "target": what follows the prefix."""
        _refuse_foreign(task, parts)
        check_train_on(train_on)
        frame = self.frame(task, _has_description(parts))
        values = [self._checked(task, field, getattr(parts, field)) for field in frame.fields]
        spliced = frame.splice([[value.data] for value in values], train_on)
        ids_T = self._ids(spliced)
        num_prefix_tokens = len(ids_T) - len(values[-1]) - len(frame.framing[-1])
        return Document(ids_T, np.arange(len(ids_T)) >= spliced.num_untrained[0], num_prefix_tokens)

    def _ids(self, spliced: TokenRuns) -> NDArray[np.int32]:
        """Of a single document."""
        first_code_id = self.vocabulary.first_code_id
        return merge_runs(spliced.words, spliced.codes, spliced.lengths, spliced.is_code, first_code_id)

    def frames(self, task: Task) -> list[PromptTemplate]:
        """A task's frames: without the optional block and, where the task has one, with it."""
        plain, full = self.frame(task, has_description=False), self.frame(task, has_description=True)
        return [plain] if len(plain.fields) == len(full.fields) else [plain, full]

    def frame(self, task: Task, has_description: bool = False) -> PromptTemplate:
        return self._frames[task, has_description]

    def num_framing(self, task: Task, has_description: bool = False) -> int:
        """Framing tokens of a document: its length is this plus the lengths of its parts."""
        return self.frame(task, has_description).num_framing

    def stop_id(self, task: Task) -> int:
        """The token that ends decoding."""
        return self._id(TEMPLATES[task].closing[0])

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any template, the vocabulary or the tokenizer; 16 hex characters."""
        templates = {task.value: template.identity for task, template in TEMPLATES.items()}
        text = json.dumps([self.vocabulary.fingerprint, templates])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _checked(self, task: Task, field: str, values: NDArray | None) -> NDArray:
        """Stored values as they are, values from elsewhere range-checked."""
        if values is None:
            raise DataError(f"a {task} document lacks {field}; it needs {', '.join(required_parts(task))}")
        if field in CODE_FIELDS:
            self.vocabulary.codes_to_ids(values)  # refuses what is no code
            return np.ascontiguousarray(values, np.uint16)
        if values.dtype != np.uint32:
            self.vocabulary.check_text_ids(values)
        return np.ascontiguousarray(values, np.uint32)

    def _frame(self, template: TemplateParts, has_description: bool) -> PromptTemplate:
        blocks = [block for block in template.prefix if has_description or not block.optional]
        names: list[tuple[str, ...]] = [(BOS,)]
        for block in blocks:
            names[-1] += block.opening
            names.append(block.closing)
        names[-1] += template.start
        names.append(template.closing)
        fields = (*(block.field for block in blocks), template.target)
        return PromptTemplate(fields, tuple(np.array([self._id(name) for name in row], np.uint32) for row in names))

    def _id(self, name: str) -> int:
        known = {BOS: self.vocabulary.bos_id, EOS: self.vocabulary.eos_id}
        return known[name] if name in known else self.vocabulary.special(name)


def required_parts(task: Task) -> tuple[str, ...]:
    """Fields of `Parts` a document of the task needs, in document order."""
    template = TEMPLATES[task]
    return (*(block.field for block in template.prefix if not block.optional), template.target)


def check_train_on(train_on: str) -> None:
    if train_on not in ("all", "target"):
        raise DataError(f"train_on is {train_on!r}; expected 'all' or 'target'")


def _has_description(parts: Parts) -> bool:
    return parts.description_ids is not None and len(parts.description_ids) > 0


def _foreign_parts(task: Task) -> tuple[str, ...]:
    template = TEMPLATES[task]
    own = {block.field for block in template.prefix} | {template.target}
    return tuple(field for field in Parts.__dataclass_fields__ if field not in own)


_FOREIGN_PARTS = {task: _foreign_parts(task) for task in Task}
_GET_FOREIGN_PARTS = {task: attrgetter(*names) for task, names in _FOREIGN_PARTS.items()}


def _refuse_foreign(task: Task, parts: Parts) -> None:
    """A part the task has no place for would be lost without a word."""
    for field, values in zip(_FOREIGN_PARTS[task], _GET_FOREIGN_PARTS[task](parts), strict=True):
        if values is not None:
            raise DataError(f"a {task} document has no place for {field}; leave it out or choose another task")
