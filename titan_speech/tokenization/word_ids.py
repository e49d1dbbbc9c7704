"""Ids of texts from the ids of their words, which come back again and again.

In: a tokenizer and texts. Out: the ids of each text as bytes, the same as the tokenizer's own. Nearly all of a
tokenizer's time goes into finding the words of a text; a word that was met before is looked up instead.

A text is the sum of its words where two things hold, and else goes to the tokenizer whole:

- Its white space is single spaces between words.
- The tokenizer cuts words by one of `PATTERNS`, of which no match goes on over such a space: a space can only begin a
  match, and nothing looks back. So each space begins a match, whatever stands before it. What comes before the words
  are cut (NFC) and after it (byte-level BPE) knows no more than a word.

Words are kept until there are `MAX_WORDS`; then they are learnt anew.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
from tokenizers import Tokenizer

MAX_WORDS = 1 << 17
WORDS_AT_ONCE = 256
MAX_WORD_CHARS = 64
"""A longer one hardly comes back: scripts without spaces."""
_SPACES = r"|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CL100K = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+" + _SPACES
)
_WITH_MARKS = r" ?[\p{L}\p{M}\x{200C}\x{200D}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}\x{200C}\x{200D}]+" + _SPACES
PATTERNS = frozenset({_CL100K % "{1,3}", _CL100K % "", _WITH_MARKS})
"""Of Llama 3, of Qwen2 and Qwen3, and of the bundled tokenizer."""


class WordIds:
    """Of one tokenizer; words are learnt as they are met."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._first: dict[str, bytes] = {}
        """Ids of words that open a text."""
        self._later: dict[str, bytes] = {}
        """Ids of words after a space, with it."""

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """uint32 ids of each text."""
        words = [_words(text) for text in texts]
        missing = self._missing(self._first, {some[0] for some in words if some})
        self._first.update(zip(missing, self._ids(missing), strict=True))
        missing = self._missing(self._later, set(chain.from_iterable(some[1:] for some in words)))
        for start in range(0, len(missing), WORDS_AT_ONCE):
            self._learn(missing[start : start + WORDS_AT_ONCE])
        whole = self._ids([text for text, some in zip(texts, words, strict=True) if not some])
        first, later = self._first, self._later.__getitem__
        return [b"".join([first[some[0]], *map(later, some[1:])]) if some else next(whole) for some in words]

    def _missing(self, known: dict[str, bytes], words: set[str]) -> list[str]:
        """Words to learn; where they are too many, all are forgotten before."""
        missing = words.difference(known)
        if len(known) + len(missing) > MAX_WORDS:
            known.clear()
            return list(words)
        return list(missing)

    def _learn(self, words: Sequence[str]) -> None:
        """Encodes one text of these words, since each text costs something; a word has the ids that begin in it."""
        encoding = self._tokenizer.encode(f" {' '.join(words)}", add_special_tokens=False)
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        places = np.searchsorted([start for start, _ in encoding.offsets], starts).tolist()
        ids = np.array(encoding.ids, np.uint32)
        self._later.update((word, ids[a:b].tobytes()) for word, (a, b) in zip(words, pairwise(places), strict=True))

    def _ids(self, texts: Sequence[str]) -> Iterator[bytes]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False) if texts else ()
        return (array("I", encoding.ids).tobytes() for encoding in encodings)


def _words(text: str) -> list[str]:
    """None where the text is not the sum of its words."""
    words = text.split()
    if words and " ".join(words) == text and max(map(len, words)) <= MAX_WORD_CHARS:
        return words
    return []


def word_ids_of(tokenizer: Tokenizer) -> WordIds | None:
    """None for a tokenizer of which it is not known that a text is the sum of its words."""
    content = json.loads(tokenizer.to_str())
    added = (token for token in content["added_tokens"] if not token["special"])
    is_sum = (
        _is_pattern(content["pre_tokenizer"])
        and (content["normalizer"] or {"type": "NFC"})["type"] == "NFC"
        and content["model"]["type"] == "BPE"
        and not content["model"].get("dropout")
        and not any(map(_reaches_over_spaces, added))
    )
    return WordIds(tokenizer) if is_sum else None


def _is_pattern(pre_tokenizer: dict | None) -> bool:
    """A split by one of the patterns, then bytes as characters."""
    match pre_tokenizer:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern in PATTERNS
    return False


def _reaches_over_spaces(token: dict) -> bool:
    return " " in token["content"] or token["lstrip"] or token["rstrip"] or token["single_word"]
