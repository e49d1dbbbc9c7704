"""The vocabulary: text, speech codes and special tokens as rows of one embedding table.

In: the number of rows of the backbone's own table and its BOS / EOS ids. Out: conversions between codes, ids and names,
range-checked. No other module computes with the positions of these ids; those of other trainers' vocabularies are found
by name (foreign_layouts.py, importers/llasa.py).

    base rows | 65,536 codes in numeric order | 128 specials: 20 named, the rest reserved | padding to 128

Markup (`<laugh>`) names reserved rows, from the last one down. It is part of text: a transcript has its ids among those
of the tokenizer. A name never changes its row: further names may follow, and whatever was made with fewer names stays
valid.

Stores keep plain codes, so a store outlives any change of backbone. The price is one addition per code when a document
is assembled: 1.4 us for 500 codes, where the cast to int32 alone takes 0.4 us.

Shapes: `codes_N` and `ids_N` may have any shape N, which is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from titan_speech.errors import VocabularyError

NUM_CODES = 65_536
NUM_SPECIAL_ROWS = 128
PADDING_MULTIPLE = 128
CODES_PER_SEC = 50

NAMED_SPECIALS = (
    "<|speech_start|>",
    "<|speech_end|>",
    "<|speech_sep|>",
    "<|text_start|>",
    "<|text_end|>",
    "<|voice_description_start|>",
    "<|voice_description_end|>",
    "<|sound_effect_start|>",
    "<|sound_effect_end|>",
    "<|ref_text_start|>",
    "<|ref_text_end|>",
    "<|ref_speech_start|>",
    "<|ref_speech_end|>",
    "<|target_text_start|>",
    "<|target_text_end|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|pad|>",
)
SPECIALS = NAMED_SPECIALS + tuple(f"<|reserved_speech_{i}|>" for i in range(NUM_SPECIAL_ROWS - len(NAMED_SPECIALS)))
CODE_NAMES = tuple(f"<|s_{code}|>" for code in range(NUM_CODES))
MAX_MARKUP = len(SPECIALS) - len(NAMED_SPECIALS)
_MARKUP_NAME = re.compile(r"<[^<>|\s]{1,48}>")


class TokenKind(IntEnum):
    """What a token is: text (base rows), a speech code, or a special token (padding rows included)."""

    TEXT = 0
    CODE = 1
    SPECIAL = 2


def token_kinds(ids_N: Any, kind_boundaries: tuple[int, int]) -> Any:
    """The `TokenKind` of each id, as integers.

    Args:
        ids_N: an int, a numpy array or a torch tensor; the result has its type and shape.
        kind_boundaries: those of the vocabulary.
    """
    first_code_id, first_special_id = kind_boundaries
    return (ids_N >= first_code_id) * 1 + (ids_N >= first_special_id)


def code_ids(codes_N: NDArray[np.uint16], first_code_id: int) -> NDArray[np.int32]:
    """Ids of codes; every uint16 is a code, so nothing is checked."""
    ids_N = codes_N.astype(np.int32)
    ids_N += first_code_id
    return ids_N


@dataclass(frozen=True)
class Vocabulary:
    """Rows of the embedding table of one backbone with the speech tokens."""

    num_base: int
    """Rows of the backbone's own embedding table, including unused ones."""
    bos_id: int
    eos_id: int
    tokenizer_fingerprint: str = ""
    """Identifies the meaning of the base rows: two tokenizers of the same size give two vocabularies."""
    markup: tuple[str, ...] = ()
    """Names of the last reserved rows, the very last one first."""
    older_tokenizers: tuple[str, ...] = ()
    """Fingerprints of the tokenizer with none, the first, the first two, ... of these names, and not all."""

    def __post_init__(self) -> None:
        if self.num_base <= 0:
            raise VocabularyError(f"num_base is {self.num_base}; expected the row count of the backbone")
        for name, id_ in (("bos_id", self.bos_id), ("eos_id", self.eos_id)):
            if not 0 <= id_ < self.num_base:
                raise VocabularyError(f"{name} is {id_}; expected a base row, 0..{self.num_base - 1}")
        check_markup(self.markup)

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """Names of the special rows."""
        return (*SPECIALS[: len(SPECIALS) - len(self.markup)], *reversed(self.markup))

    @cached_property
    def markup_ids(self) -> dict[str, int]:
        """Id of each markup name."""
        return {name: self.num_used_rows - 1 - number for number, name in enumerate(self.markup)}

    @property
    def first_code_id(self) -> int:
        return self.num_base

    @property
    def first_special_id(self) -> int:
        return self.num_base + NUM_CODES

    @property
    def num_used_rows(self) -> int:
        """Rows without the padding rows at the end."""
        return self.first_special_id + NUM_SPECIAL_ROWS

    @property
    def num_rows(self) -> int:
        """Rows of the embedding and output matrices."""
        return -(-self.num_used_rows // PADDING_MULTIPLE) * PADDING_MULTIPLE

    @property
    def pad_id(self) -> int:
        return self.special("<|pad|>")

    @property
    def kind_boundaries(self) -> tuple[int, int]:
        """The first id of a code and the first id of a special, for `token_kinds`."""
        return self.first_code_id, self.first_special_id

    def codes_to_ids(self, codes_N: ArrayLike) -> NDArray[np.int32]:
        """Ids of speech codes.

        Args:
            codes_N: integers, of any shape.

        Returns:
            int32 ids of the same shape.

        Raises:
            VocabularyError: a value is not a code, 0 to 65,535.
        """
        codes = np.asarray(codes_N)
        if codes.dtype != np.uint16:
            _check_range(codes, 0, NUM_CODES, "code", "a code of the codec")
        return code_ids(codes, self.first_code_id)

    def ids_to_codes(self, ids_N: ArrayLike) -> NDArray[np.uint16]:
        """Speech codes of ids.

        Args:
            ids_N: integers, of any shape.

        Returns:
            uint16 codes of the same shape.

        Raises:
            VocabularyError: an id is not that of a code.
        """
        ids = np.asarray(ids_N)
        _check_range(ids, self.first_code_id, self.first_special_id, "id", "the id of a speech code")
        return (ids - self.first_code_id).astype(np.uint16)

    def is_text(self, id_: int) -> bool:
        """Whether an id is that of a base row."""
        return token_kinds(id_, self.kind_boundaries) == TokenKind.TEXT

    def is_code(self, ids_N: ArrayLike) -> NDArray[np.bool_]:
        """Which ids are speech codes."""
        return token_kinds(np.asarray(ids_N), self.kind_boundaries) == TokenKind.CODE

    def code_rows(self) -> NDArray[np.bool_]:
        """For each row of the table whether it is that of a speech code, shape [num_rows]."""
        return self.is_code(np.arange(self.num_rows))

    def check_text_ids(self, ids_N: ArrayLike) -> None:
        """Raise a VocabularyError if an id is neither that of a base row nor markup."""
        ids = np.asarray(ids_N)
        if self.markup and np.issubdtype(ids.dtype, np.integer):
            ids = np.where(np.isin(ids, list(self.markup_ids.values())), 0, ids)
        _check_range(ids, 0, self.num_base, "text id", "an id of the text tokenizer")

    def special(self, name: str) -> int:
        """Id of a named or reserved special token.

        Args:
            name: as in the vocabulary, such as `<|speech_start|>`.

        Raises:
            VocabularyError: there is no special token of this name.
        """
        try:
            return self._special_ids[name]
        except KeyError:
            known = ", ".join((*NAMED_SPECIALS, *self.markup))
            raise VocabularyError(
                f"no special is called {name!r}; expected one of {known} or <|reserved_speech_N|>"
            ) from None

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        return {name: id_ for id_, name in enumerate(self.specials, self.first_special_id)}

    def token_name(self, id_: int) -> str:
        """Unique name of an id: base:123, <|s_17|>, <|speech_start|>, padding:0."""
        if not 0 <= id_ < self.num_rows:
            raise VocabularyError(f"id {id_} is outside the vocabulary; expected 0..{self.num_rows - 1}")
        if id_ < self.first_code_id:
            return f"base:{id_}"
        if id_ < self.first_special_id:
            return CODE_NAMES[id_ - self.first_code_id]
        if id_ < self.num_used_rows:
            return self.specials[id_ - self.first_special_id]
        return f"padding:{id_ - self.num_used_rows}"

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the row numbers, the order of the specials and the tokenizer."""
        layout = [self.num_base, self.bos_id, self.eos_id, self.tokenizer_fingerprint]
        text = json.dumps([layout, NUM_CODES, self.num_rows, self.specials])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def older_fingerprints(self) -> tuple[str, ...]:
        """Of the same vocabulary with fewer markup names: weights made with it fit this one."""
        return tuple(
            replace(self, markup=self.markup[:count], tokenizer_fingerprint=tokenizer, older_tokenizers=()).fingerprint
            for count, tokenizer in enumerate(self.older_tokenizers)
        )


def check_markup(names: tuple[str, ...]) -> None:
    """Raise a VocabularyError if names are no markup, come twice or are too many."""
    for number, name in enumerate(names):
        if not _MARKUP_NAME.fullmatch(name):
            raise VocabularyError(f"markup {name!r}: expected a name in <>, without space and |, such as <laugh>")
        if name in names[:number]:
            raise VocabularyError(f"markup {name} comes twice; each name has one row, so remove one of them")
    if len(names) > MAX_MARKUP:
        raise VocabularyError(f"markup has {len(names)} names; there are {MAX_MARKUP} reserved rows")


def bad_text_id(ids_T: NDArray[np.uint32], num_base: int) -> int | None:
    """The first id that no text can have, as it is neither a base row nor markup; None if all ids are valid.

    Args:
        ids_T: ids of stored text.
        num_base: base rows of the tokenizer that made them.
    """
    if not len(ids_T) or int(ids_T.max()) < num_base:
        return None
    first = num_base + NUM_CODES + len(NAMED_SPECIALS)
    is_bad_T = (ids_T >= num_base) & ((ids_T < first) | (ids_T >= num_base + NUM_CODES + NUM_SPECIAL_ROWS))
    return int(ids_T[is_bad_T][0]) if is_bad_T.any() else None


def _check_range(values_N: NDArray, first: int, stop: int, what: str, expected: str) -> None:
    if not np.issubdtype(values_N.dtype, np.integer):
        raise VocabularyError(f"{what}s have type {values_N.dtype}; expected integers")
    if values_N.size == 0 or (values_N.min() >= first and values_N.max() < stop):
        return
    bad = np.flatnonzero((values_N < first) | (values_N >= stop))
    rest = f" and {bad.size - 1} more" if bad.size > 1 else ""
    raise VocabularyError(
        f"{what} {int(values_N.flat[bad[0]])} at index {bad[0]}{rest} out of range; "
        f"expected {expected}, {first}..{stop - 1}"
    )
