"""Prompt templates: how a sample becomes the tokens that a model is trained on and that decoding starts from.

In: a task and its parts (text ids, codes). Out, all from the same template: the prefix that decoding starts with, the
whole document with a mask of its training targets, or its token runs (token_runs.py), which a pack copies once.

    speech        bos <|speech_start|> | codes <|speech_end|>
    continuation  bos <|speech_start|> prompt_codes <|speech_sep|> | codes <|speech_end|>
    tts           bos [voice_description block] text block <|speech_start|> | codes <|speech_end|>
    clone         bos ref_text, ref_speech, target_text blocks <|speech_start|> | codes <|speech_end|>
    text          bos | text eos
    instruction   bos user block <|assistant_start|> | assistant <|assistant_end|> eos

A block is <|x_start|> ... <|x_end|>; the prefix is everything left of the bar. The templates are one table, compiled
once per vocabulary: the token runs of 64 tts documents take 13 us, 0.2 us per document.

Shapes: T tokens of a document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from enum import StrEnum
from functools import cached_property
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.tokenization.token_runs import TokenRuns, merge_runs
from titan_speech.tokenization.vocabulary import Vocabulary


class Task(StrEnum):
    """What a sample is trained as; `task` in the configuration has these values, and `PREFERENCE`."""

    SPEECH = "speech"
    CONTINUATION = "continuation"
    TTS = "tts"
    CLONE = "clone"
    TEXT = "text"
    INSTRUCTION = "instruction"


PREFERENCE = "preference"
"""A task of the configuration without a template of its own: two answers to one prompt, each a tts document, or a
clone document where a part has their voices."""


def template_task(name: str) -> Task:
    """The task whose template the documents of a task of the configuration have."""
    return Task.TTS if name == PREFERENCE else Task(name)


@dataclass(frozen=True)
class Parts:
    """What a document is made of: codes and text ids as a store holds them, without any token of the template.

    uint16 codes and uint32 text ids are not checked again (a store checks them when it opens a file); arrays of any
    other type are range-checked.
    """

    text_ids: NDArray | None = None
    codes: NDArray | None = None
    ref_text_ids: NDArray | None = None
    ref_codes: NDArray | None = None
    description_ids: NDArray | None = None
    """Voice description of a tts document; None and an empty array both leave the block out."""
    prompt_codes: NDArray | None = None
    user_ids: NDArray | None = None
    assistant_ids: NDArray | None = None


@dataclass(frozen=True)
class Document:
    """Tokens of one document; trained_T[t] is True where token t is a training target (BOS never is)."""

    ids_T: NDArray[np.int32]
    trained_T: NDArray[np.bool_]
    num_prefix_tokens: int


@dataclass(frozen=True)
class TemplateBlock:
    """Opening tokens, one field of `Parts`, closing tokens."""

    opening: tuple[str, ...]
    field: str
    closing: tuple[str, ...]
    optional: bool = False

    def __repr__(self) -> str:
        """Part of `PromptTemplate.identity`, hence independent of names in the code."""
        return (
            f"Block(opening={self.opening!r}, field={self.field!r}, closing={self.closing!r}, "
            f"optional={self.optional!r})"
        )


@dataclass(frozen=True)
class PromptTemplate:
    """The document of a task: prefix blocks, the last tokens of the prefix, the target, and its closing tokens."""

    prefix: tuple[TemplateBlock, ...]
    start: tuple[str, ...]
    """Last tokens of the prefix."""
    target: str
    closing: tuple[str, ...]
    """Tokens after the target, generated too; decoding stops at the first of them."""

    @property
    def identity(self) -> str:
        """Text that fingerprints are computed from. Plans and checkpoints have recorded it since version 0.1, so it
        does not change with names in the code."""
        fields = (f"{name}={getattr(self, name)!r}" for name in ("prefix", "start", "target", "closing"))
        return f"Template({', '.join(fields)})"


BOS, EOS = "<bos>", "<eos>"


def _block(name: str, field: str, optional: bool = False) -> TemplateBlock:
    return TemplateBlock((f"<|{name}_start|>",), field, (f"<|{name}_end|>",), optional)


_SPEECH_START, _SPEECH_END = ("<|speech_start|>",), ("<|speech_end|>",)
TEMPLATES = {
    Task.SPEECH: PromptTemplate((), _SPEECH_START, "codes", _SPEECH_END),
    Task.CONTINUATION: PromptTemplate(
        (TemplateBlock(_SPEECH_START, "prompt_codes", ("<|speech_sep|>",)),), (), "codes", _SPEECH_END
    ),
    Task.TTS: PromptTemplate(
        (_block("voice_description", "description_ids", optional=True), _block("text", "text_ids")),
        _SPEECH_START,
        "codes",
        _SPEECH_END,
    ),
    Task.CLONE: PromptTemplate(
        (_block("ref_text", "ref_text_ids"), _block("ref_speech", "ref_codes"), _block("target_text", "text_ids")),
        _SPEECH_START,
        "codes",
        _SPEECH_END,
    ),
    Task.TEXT: PromptTemplate((), (), "text_ids", (EOS,)),
    Task.INSTRUCTION: PromptTemplate(
        (_block("user", "user_ids"),), ("<|assistant_start|>",), "assistant_ids", ("<|assistant_end|>", EOS)
    ),
}
CODE_FIELDS = frozenset({"codes", "ref_codes", "prompt_codes"})


class CompiledTemplate:
    """A template in ids: fixed_ids[0] field[0] fixed_ids[1] field[1] ... field[-1] fixed_ids[-1], target last.

    What does not depend on the document is computed once: which runs a document has, and in what order.
    """

    def __init__(self, fields: tuple[str, ...], fixed_ids: tuple[NDArray[np.uint32], ...]) -> None:
        """`fixed_ids` are the template's own tokens: before each field, and after the last one."""
        self.fields, self.fixed_ids = fields, fixed_ids
        self.num_fixed_tokens = sum(map(len, fixed_ids))
        self._is_code = bytes(flag for field in fields for flag in (0, field in CODE_FIELDS)) + b"\0"
        self._lengths = [length for ids in fixed_ids for length in (len(ids), 0)][:-1]
        self._text_runs: list[memoryview] = []
        self._code_runs: list[memoryview] = []
        self._run_of_field: list[int] = []
        """Index of each field's run in `_text_runs` or `_code_runs`; until it is filled, an empty run stands there."""
        for ids, field in zip(fixed_ids, fields, strict=False):
            self._text_runs.append(ids.data)
            runs = self._code_runs if field in CODE_FIELDS else self._text_runs
            self._run_of_field.append(len(runs))
            runs.append(ids.data[:0])
        self._text_runs.append(fixed_ids[-1].data)

    def __reduce__(self) -> tuple[type[CompiledTemplate], tuple[object, ...]]:
        """Memory views cannot be pickled; the receiver compiles again."""
        return CompiledTemplate, (self.fields, self.fixed_ids)

    def assemble(self, columns: Sequence[Sequence[memoryview]], train_on: str) -> TokenRuns:
        """The token runs of many documents, without copying a token.

        Args:
            columns: for each field the stored values, one per document: uint16 codes or uint32 text ids.
            train_on: as in `Grammar.document`.
        """
        num_documents = len(columns[0])
        lengths = self._lengths * num_documents
        text = self._text_runs * num_documents
        codes = self._code_runs * num_documents
        num_values: list[list[int]] = []
        for i, (field, first, column) in enumerate(zip(self.fields, self._run_of_field, columns, strict=True)):
            num_values.append(list(map(len, column)))
            lengths[2 * i + 1 :: len(self._lengths)] = num_values[-1]
            if field in CODE_FIELDS:
                codes[first :: len(self._code_runs)] = column
            else:
                text[first :: len(self._text_runs)] = column
        num_tokens = list(map(sum, zip(repeat(self.num_fixed_tokens), *num_values, strict=False)))
        num_untrained = [1] * num_documents
        if train_on != "all":
            num_closing = len(self.fixed_ids[-1])
            num_untrained = [
                total - target - num_closing for total, target in zip(num_tokens, num_values[-1], strict=True)
            ]
        return TokenRuns(text, codes, lengths, self._is_code, num_tokens, num_untrained)


class Grammar:
    """The prompt grammar: the templates of all tasks, compiled for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._compiled = {
            (task, has_description): self._compile(template, has_description)
            for task, template in TEMPLATES.items()
            for has_description in (False, True)
        }

    def prefix(self, task: Task, parts: Parts) -> NDArray[np.int32]:
        """The ids that decoding starts with.

        Args:
            task: the task to decode.
            parts: the parts of the document; its target is not needed.

        Raises:
            DataError: a part is missing, or the task does not use one that is given.
            VocabularyError: a value is not a code or not a text id.
        """
        _refuse_unused_parts(task, parts)
        template = self.template(task, _has_description(parts))
        values = [self._checked(task, field, getattr(parts, field)) for field in template.fields[:-1]]
        empty_target = np.empty(0, np.uint16 if template.fields[-1] in CODE_FIELDS else np.uint32)
        runs = template.assemble([[value.data] for value in (*values, empty_target)], "all")
        return self._ids(runs.cut([(0, 0, runs.num_tokens[0] - len(template.fixed_ids[-1]))]))

    def document(self, task: Task, parts: Parts, train_on: str = "all") -> Document:
        """The whole document of a sample.

        Args:
            task: how the sample is read.
            parts: its parts, target included.
            train_on: "all" trains every token but BOS, "target" what follows the prefix.

        Raises:
            DataError: a part is missing, or the task does not use one that is given.
            VocabularyError: a value is not a code or not a text id.
        """
        _refuse_unused_parts(task, parts)
        if train_on not in ("all", "target"):
            raise DataError(f"train_on is {train_on!r}; expected 'all' or 'target'")
        template = self.template(task, _has_description(parts))
        values = [self._checked(task, field, getattr(parts, field)) for field in template.fields]
        runs = template.assemble([[value.data] for value in values], train_on)
        ids_T = self._ids(runs)
        num_prefix_tokens = len(ids_T) - len(values[-1]) - len(template.fixed_ids[-1])
        return Document(ids_T, np.arange(len(ids_T)) >= runs.num_untrained[0], num_prefix_tokens)

    def template(self, task: Task, has_description: bool) -> CompiledTemplate:
        """The compiled template of a task, with or without its optional block."""
        return self._compiled[task, has_description]

    def templates(self, task: Task) -> list[CompiledTemplate]:
        """All compiled templates of a task: without the optional block and, if the task has one, with it."""
        plain, full = self.template(task, has_description=False), self.template(task, has_description=True)
        return [plain] if len(plain.fields) == len(full.fields) else [plain, full]

    def num_fixed_tokens(self, task: Task, has_description: bool = False) -> int:
        """Tokens of the template itself: a document's length is this plus the lengths of its parts.

        Args:
            task: what the sample is trained as.
            has_description: whether the optional voice description is there.
        """
        return self.template(task, has_description).num_fixed_tokens

    def stop_id(self, task: Task) -> int:
        """The token at which decoding stops.

        Args:
            task: what is decoded.
        """
        return self._id(TEMPLATES[task].closing[0])

    @cached_property
    def closing_ids(self) -> frozenset[int]:
        """The last tokens of documents, of all tasks."""
        return frozenset(self._id(template.closing[-1]) for template in TEMPLATES.values())

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any template, the vocabulary or the tokenizer; 16 hex characters."""
        templates = {task.value: template.identity for task, template in TEMPLATES.items()}
        text = json.dumps([self.vocabulary.fingerprint, templates])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _checked(self, task: Task, field: str, values: NDArray | None) -> NDArray:
        """Values of a store unchanged, others range-checked and converted."""
        if values is None:
            raise DataError(f"a {task} document lacks {field}; it needs {', '.join(required_parts(task))}")
        if field in CODE_FIELDS:
            self.vocabulary.codes_to_ids(values)  # raises for a value that is not a code
            return np.ascontiguousarray(values, np.uint16)
        if values.dtype != np.uint32:
            self.vocabulary.check_text_ids(values)
        return np.ascontiguousarray(values, np.uint32)

    def _ids(self, runs: TokenRuns) -> NDArray[np.int32]:
        return merge_runs(runs.text, runs.codes, runs.lengths, runs.is_code, self.vocabulary.first_code_id)

    def _compile(self, template: PromptTemplate, has_description: bool) -> CompiledTemplate:
        blocks = [block for block in template.prefix if has_description or not block.optional]
        names: list[tuple[str, ...]] = [(BOS,)]
        for block in blocks:
            names[-1] += block.opening
            names.append(block.closing)
        names[-1] += template.start
        names.append(template.closing)
        fields = (*(block.field for block in blocks), template.target)
        return CompiledTemplate(fields, tuple(np.array([self._id(name) for name in row], np.uint32) for row in names))

    def _id(self, name: str) -> int:
        known = {BOS: self.vocabulary.bos_id, EOS: self.vocabulary.eos_id}
        return known[name] if name in known else self.vocabulary.special(name)


def required_parts(task: Task) -> tuple[str, ...]:
    """Names of the parts that a document of the task needs, in document order."""
    template = TEMPLATES[task]
    return (*(block.field for block in template.prefix if not block.optional), template.target)


def _has_description(parts: Parts) -> bool:
    return parts.description_ids is not None and len(parts.description_ids) > 0


def _refuse_unused_parts(task: Task, parts: Parts) -> None:
    """A part that the task does not use would be lost silently."""
    template = TEMPLATES[task]
    used = {block.field for block in template.prefix} | {template.target}
    for field in dataclass_fields(parts):
        if field.name not in used and getattr(parts, field.name) is not None:
            raise DataError(f"a {task} document has no place for {field.name}; leave it out or choose another task")
