"""Where the ids of Llasa's vocabulary lie, found by name.

In: the tokenizer the ids were made with. Out: ids of the marks around text and speech, and a table from id to code.

The released tokenizers have all names (`<|TEXT_UNDERSTANDING_START|>`, ..., `<|s_0|>` to `<|s_65535|>`). The training
code starts from the plain Llama tokenizer instead, adds eight marks behind its last entry and lets the codes follow
(titan_speech.layouts). That rule is taken where the tokenizer has none of the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from titan_speech.corpus.formats.records import narrowed
from titan_speech.errors import DataError
from titan_speech.layouts import LLASA
from titan_speech.vocabulary import NUM_CODES

TEXT_START, TEXT_END = "<|TEXT_UNDERSTANDING_START|>", "<|TEXT_UNDERSTANDING_END|>"
SPEECH_START, SPEECH_END = "<|SPEECH_GENERATION_START|>", "<|SPEECH_GENERATION_END|>"
MARKS = LLASA.tokens[:-NUM_CODES]
NOT_A_CODE = -1


@dataclass(frozen=True)
class LlasaLayout:
    """Ids of the marks, and `code_V[id]`: the code an id stands for, or -1."""

    marks: dict[str, int]
    code_V: NDArray[np.int32]

    @classmethod
    def of(cls, tokenizer: Tokenizer, path: Path) -> LlasaLayout:
        names = LLASA.tokens
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        absent = [name for name in names if name not in vocabulary]
        if len(absent) == len(names):
            first = max(vocabulary.values()) + 1
            vocabulary = {name: first + index for index, name in enumerate(names)}
        elif absent:
            raise DataError(
                f"{path} has {len(names) - len(absent)} of Llasa's {len(names)} marks and codes, not {absent[0]!r}; "
                "give the tokenizer the ids were made with, or the plain Llama one the training code starts from"
            )
        code_V = np.full(max(vocabulary[name] for name in names) + 1, NOT_A_CODE, np.int32)
        code_V[[vocabulary[name] for name in names[len(MARKS) :]]] = np.arange(NUM_CODES)
        return cls({name: vocabulary[name] for name in MARKS}, code_V)

    @cached_property
    def _first_code_id(self) -> int | None:
        """Where the ids of codes lie one after the other, as they do unless someone sorted them otherwise."""
        first = int(np.argmax(self.code_V == 0))
        return first if np.array_equal(self.code_V[first : first + NUM_CODES], np.arange(NUM_CODES)) else None

    def codes(self, ids_N: NDArray) -> NDArray:
        """uint16 if all are codes and lie in order, else int32 with -1 where an id is no code."""
        if self._first_code_id is not None:
            codes_N = narrowed(ids_N - np.int32(self._first_code_id))
            if codes_N.dtype == np.uint16:
                return codes_N
        inside_N = (ids_N >= 0) & (ids_N < len(self.code_V))
        return np.where(inside_N, self.code_V[np.where(inside_N, ids_N, 0)], NOT_A_CODE)
