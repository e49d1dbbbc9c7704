"""Vocabularies of other speech trainers, mapped to ours by the names of their tokens.

In: the name of a layout, or the tokenizer.json of a model trained elsewhere. Out: for each of its rows the row of ours.
Offsets are never compared: the open Inworld trainer sorts its tokens as strings, so that code 10,000 follows code 0,
and Llasa puts its specials before its codes.

    inworld  128,256 base | codes and 8 specials sorted by name | 56 extra tokens | 193,856 rows
    llasa    128,256 base | 8 specials, then codes in order | 193,800 rows

A special that we have under another name maps to ours; one that we do not have takes a reserved row, so that nothing
is lost on the way there and back.

Shapes: R rows of a layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import VocabularyError
from titan_speech.tokenization.known_tokenizers import LLAMA3_ROWS
from titan_speech.tokenization.vocabulary import CODE_NAMES, NUM_CODES, Vocabulary

NO_ROW = -1
"""In tables of rows: the other vocabulary does not have this one."""

_INWORLD_SPECIALS = tuple(
    f"<|{name}_{end}|>"
    for name in ("speech", "text_prompt", "voice_description", "sound_effect")
    for end in ("start", "end")
)
_INWORLD_EXTRA = tuple(f"<|extra_token_{i}|>" for i in range(56))
_LLASA_SPECIALS = tuple(
    f"<|{name}_{end}|>"
    for name in ("TEXT_GENERATION", "TEXT_UNDERSTANDING", "SPEECH_GENERATION", "SPEECH_UNDERSTANDING")
    for end in ("START", "END")
)
OUR_NAMES = {
    "<|text_prompt_start|>": "<|text_start|>",
    "<|text_prompt_end|>": "<|text_end|>",
    "<|TEXT_UNDERSTANDING_START|>": "<|text_start|>",
    "<|TEXT_UNDERSTANDING_END|>": "<|text_end|>",
    "<|SPEECH_GENERATION_START|>": "<|speech_start|>",
    "<|SPEECH_GENERATION_END|>": "<|speech_end|>",
    "<|SPEECH_UNDERSTANDING_START|>": "<|ref_speech_start|>",
    "<|SPEECH_UNDERSTANDING_END|>": "<|ref_speech_end|>",
    "<|TEXT_GENERATION_START|>": "<|reserved_speech_0|>",
    "<|TEXT_GENERATION_END|>": "<|reserved_speech_1|>",
} | {token: f"<|reserved_speech_{2 + i}|>" for i, token in enumerate(_INWORLD_EXTRA)}
"""Our special for each special of another trainer."""


@dataclass(frozen=True)
class VocabularyLayout:
    """The rows after the base rows of a vocabulary."""

    name: str
    tokens: tuple[str, ...]
    """Names of the rows after the base, in order."""
    num_base: int = LLAMA3_ROWS

    @property
    def num_rows(self) -> int:
        return self.num_base + len(self.tokens)

    def rows_of_ours(self, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """For each row of the layout the row of ours with the same meaning, shape [R].

        Raises:
            VocabularyError: the two have different base rows, or we have no token for one of the layout's.
        """
        if vocabulary.num_base != self.num_base:
            raise VocabularyError(
                f"layout {self.name} has {self.num_base} base rows, this vocabulary {vocabulary.num_base}; they are of "
                "different backbones"
            )
        code_ids = dict(zip(CODE_NAMES, vocabulary.codes_to_ids(np.arange(NUM_CODES)).tolist(), strict=True))
        rows_R = np.arange(self.num_rows)
        for row, token in enumerate(self.tokens, start=self.num_base):
            rows_R[row] = code_ids[token] if token in code_ids else vocabulary.special(OUR_NAMES.get(token, token))
        return rows_R


INWORLD = VocabularyLayout("inworld", (*sorted([*CODE_NAMES, *_INWORLD_SPECIALS]), *_INWORLD_EXTRA))
LLASA = VocabularyLayout("llasa", (*_LLASA_SPECIALS, *CODE_NAMES))
FOREIGN_LAYOUTS = {layout.name: layout for layout in (INWORLD, LLASA)}


def layout_of_tokenizer(content: Mapping[str, Any], num_base: int, name: str) -> VocabularyLayout:
    """The layout of a tokenizer.json: its added tokens above the base rows.

    Args:
        content: the parsed file.
        num_base: rows of the backbone it starts from.
        name: what errors call the file.

    Raises:
        VocabularyError: the ids of the added tokens have gaps, or a speech code is missing.
    """
    added: Sequence[Mapping[str, Any]] = content.get("added_tokens", [])
    tokens = {token["id"]: token["content"] for token in added if token["id"] >= num_base}
    num_missing = len(set(CODE_NAMES) - set(tokens.values()))
    if num_missing or sorted(tokens) != list(range(num_base, num_base + len(tokens))):
        raise VocabularyError(
            f"{name} has {len(tokens):,} added tokens from id {num_base:,} on, and of the {NUM_CODES:,} speech codes "
            f"(<|s_0|> to <|s_{NUM_CODES - 1}|>) {num_missing:,} are not among them; expected all of them and specials "
            "without gaps: give the tokenizer.json that was saved with the model"
        )
    return VocabularyLayout(name, tuple(tokens[id_] for id_ in sorted(tokens)), num_base)
