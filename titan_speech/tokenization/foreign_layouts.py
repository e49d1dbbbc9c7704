"""Token ids of other speech trainers, mapped to this one's by name.

In: the name of a layout, or the tokenizer.json of a model trained elsewhere. Out: which row of ours each of its rows
is. Offsets are never compared: the open Inworld trainer sorts its tokens as strings, so that code 10,000 follows code
0, and Llasa puts its specials before its codes.

    inworld  128,256 base | codes and 8 specials sorted by name | 56 extra tokens | 193,856 rows
    llasa    128,256 base | 8 specials, then codes in order | 193,800 rows

A special of theirs that we have under another name is that one; one that we have not at all takes a reserved row of
ours, so that nothing is lost on the way there and back.

Shapes: R rows of a layout, V rows of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import VocabularyError
from titan_speech.tokenization.vocabulary import NUM_CODES, Vocabulary

LLAMA3_ROWS = 128_256
NO_ROW = -1

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
"""Specials of other trainers by the special of ours that does their work."""


@dataclass(frozen=True)
class VocabularyLayout:
    """What follows the base rows of a vocabulary."""

    name: str
    tokens: tuple[str, ...]
    """Names of the rows after the base, in order."""
    num_base: int = LLAMA3_ROWS

    @property
    def num_rows(self) -> int:
        return self.num_base + len(self.tokens)

    def rows_of_ours(self, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """For each of its rows R the row of ours with the same meaning.

        Raises:
            VocabularyError: the base of the two differs, or a token of its has no name here.
        """
        if vocabulary.num_base != self.num_base:
            raise VocabularyError(
                f"layout {self.name} has {self.num_base} base rows, this vocabulary {vocabulary.num_base}; they are of "
                "different backbones"
            )
        rows_R = np.arange(self.num_rows)
        for row, token in enumerate(self.tokens, start=self.num_base):
            code = _CODE_OF.get(token)
            known = vocabulary.first_code_id + code if code is not None else None
            rows_R[row] = vocabulary.special(OUR_NAMES.get(token, token)) if known is None else known
        return rows_R

    def ids_to_ours(self, ids_N: NDArray, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """Token ids of a corpus made for this layout, in ours.

        Raises:
            VocabularyError: an id beyond its tokens.
        """
        return _looked_up(self.rows_of_ours(vocabulary), ids_N, f"layout {self.name}")

    def ids_from_ours(self, ids_N: NDArray, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """The inverse of `ids_to_ours`.

        Raises:
            VocabularyError: a token the layout has not.
        """
        return _looked_up(self.rows_of_theirs(vocabulary), ids_N, "this vocabulary without what the layout lacks")

    def rows_of_theirs(self, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """The inverse of `rows_of_ours`: for each of our rows its row, or -1."""
        theirs_V = np.full(vocabulary.num_rows, NO_ROW, np.int64)
        theirs_V[self.rows_of_ours(vocabulary)] = np.arange(self.num_rows)
        return theirs_V


def _looked_up(rows_R: NDArray[np.int64], ids_N: NDArray, what: str) -> NDArray[np.int64]:
    ids_N = np.asarray(ids_N)
    inside = (ids_N >= 0) & (ids_N < len(rows_R))
    found_N = np.where(inside, rows_R[np.where(inside, ids_N, 0)], NO_ROW)
    if (found_N == NO_ROW).any():
        first = int(np.flatnonzero(found_N == NO_ROW)[0])
        raise VocabularyError(f"id {ids_N.flat[first]} at index {first} is no token of {what}")
    return found_N


_CODE_OF = {f"<|s_{code}|>": code for code in range(NUM_CODES)}
INWORLD = VocabularyLayout("inworld", (*sorted([*_CODE_OF, *_INWORLD_SPECIALS]), *_INWORLD_EXTRA))
LLASA = VocabularyLayout("llasa", (*_LLASA_SPECIALS, *_CODE_OF))
LAYOUTS = {layout.name: layout for layout in (INWORLD, LLASA)}


def layout_of_tokenizer(content: Mapping[str, Any], num_base: int, name: str) -> VocabularyLayout:
    """The layout a tokenizer.json has: its added tokens above the base, which must be without gaps.

    Raises:
        VocabularyError: there are gaps, or a speech code is missing.
    """
    added: Sequence[Mapping[str, Any]] = content.get("added_tokens", [])
    tokens = {token["id"]: token["content"] for token in added if token["id"] >= num_base}
    num_missing = len(_CODE_OF.keys() - set(tokens.values()))
    if num_missing or sorted(tokens) != list(range(num_base, num_base + len(tokens))):
        raise VocabularyError(
            f"{name} has {len(tokens):,} added tokens from id {num_base:,} on, and of the {NUM_CODES:,} speech codes "
            f"(<|s_0|> to <|s_{NUM_CODES - 1}|>) {num_missing:,} are not among them; expected all of them and specials "
            "without gaps: give the tokenizer.json that was saved with the model"
        )
    return VocabularyLayout(name, tuple(tokens[id_] for id_ in sorted(tokens)), num_base)
