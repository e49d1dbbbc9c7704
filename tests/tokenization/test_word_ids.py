"""Ids by words equal the tokenizer's own for any text, and words are looked up, not encoded again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors

from tests.support.runs import ROOT
from titan_speech.tokenization import word_ids
from titan_speech.tokenization.known_tokenizers import LLAMA3_PATTERN
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.word_ids import SPLIT_PATTERNS, WordIds, word_ids_of

ODD = "'’.,!?(-) \u00a0\n\t\u200c\u200d\u0308\u1680\u2028\u3000\u180e<|>日本👍🏽éक्षि1२"


@cache
def tokenizer_with(pattern: str) -> Tokenizer:
    """The bundled one, cutting words by another pattern."""
    tokenizer = Tokenizer.from_file(str(ROOT / "tokenizer/tiny/tokenizer.json"))
    tokenizer.encode_special_tokens = True
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


@cache
def words_of(pattern: str) -> WordIds:
    words = word_ids_of(tokenizer_with(pattern))
    assert words is not None
    return words


def own_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def as_lists(found: list[bytes]) -> list[list[int]]:
    return [np.frombuffer(ids, np.uint32).tolist() for ids in found]


EVERYWHERE = [chr(i) for i in range(0x20, 0x1F900, 29) if not 0xD800 <= i < 0xE000]
words = st.text(st.one_of(st.sampled_from(EVERYWHERE), st.sampled_from(ODD)), max_size=8)
texts = st.lists(words, max_size=6).flatmap(lambda some: st.sampled_from([" ".join(some), " ".join(some).strip()]))


@settings(max_examples=60, deadline=None)
@given(some=st.lists(texts, max_size=5))
@pytest.mark.parametrize("pattern", sorted(SPLIT_PATTERNS))
def test_ids_by_words_are_those_of_the_tokenizer(pattern: str, some: list[str]) -> None:
    """Words stay known over the examples, so most texts are put together of words of others."""
    assert as_lists(words_of(pattern).encode(some)) == own_ids(tokenizer_with(pattern), some)


@pytest.mark.parametrize("text", ["", " ", "a  b", " a", "a ", "a\nb c", "a\u00a0b c", "x" * 100 + " y", "a b"])
def test_texts_with_other_white_space_or_long_words_are_encoded_too(text: str) -> None:
    for pattern in SPLIT_PATTERNS:
        assert as_lists(words_of(pattern).encode([text, "a b"])) == own_ids(tokenizer_with(pattern), [text, "a b"])


def test_a_word_that_is_known_is_not_encoded_again() -> None:
    tokenizer = TextTokenizer.load(ROOT / "tokenizer/tiny")
    texts = ["please hold the line", "the line please"]
    assert as_lists(tokenizer.encode_bytes(texts)) == tokenizer.encode_batch(texts)
    with (
        patch.object(WordIds, "_ids", side_effect=_refuse_all),
        patch.object(WordIds, "_encode_words", side_effect=_refuse_all),
    ):
        found = tokenizer.encode_bytes(["please the line", "the hold please"])
    assert as_lists(found) == tokenizer.encode_batch(["please the line", "the hold please"])


def _refuse_all(texts: list[str]) -> Iterator[bytes]:
    assert not texts, f"encoded again: {texts}"
    return iter(())


def test_words_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_ids, "MAX_WORDS", 20)
    tokenizer = tokenizer_with(LLAMA3_PATTERN)
    learning = WordIds(tokenizer)
    for i in range(30):
        batch = [f"word{i} and word{i + 1}", "and then"]
        assert as_lists(learning.encode(batch)) == own_ids(tokenizer, batch)
        assert len(learning._later) <= 20


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}},
        {"normalizer": {"type": "Lowercase"}},
    ],
)
def test_a_tokenizer_that_is_not_known_to_add_up_encodes_whole_texts(change: dict) -> None:
    content = json.loads(tokenizer_with(LLAMA3_PATTERN).to_str())
    assert word_ids_of(Tokenizer.from_str(json.dumps(content))) is not None
    assert word_ids_of(Tokenizer.from_str(json.dumps(content | change))) is None


def test_an_added_token_with_a_space_is_found_in_whole_texts() -> None:
    tokenizer = Tokenizer.from_str(tokenizer_with(LLAMA3_PATTERN).to_str())
    tokenizer.add_tokens(["hold the"])
    assert word_ids_of(tokenizer) is None
