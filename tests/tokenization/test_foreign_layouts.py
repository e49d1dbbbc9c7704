"""Ids of other trainers, by name: the facts that are published about them, and nothing lost there and back."""

from __future__ import annotations

import numpy as np
import pytest

from titan_speech.errors import VocabularyError
from titan_speech.tokenization.foreign_layouts import (
    FOREIGN_LAYOUTS,
    INWORLD,
    LLASA,
    VocabularyLayout,
    layout_of_tokenizer,
)
from titan_speech.tokenization.known_tokenizers import LLAMA3_ROWS
from titan_speech.tokenization.vocabulary import Vocabulary

VOCABULARY = Vocabulary(LLAMA3_ROWS, 128_000, 128_001)


def test_rows_and_ids_are_the_published_ones() -> None:
    assert (INWORLD.num_rows, LLASA.num_rows) == (193_856, 193_800)
    inworld = {token: LLAMA3_ROWS + i for i, token in enumerate(INWORLD.tokens)}
    assert (inworld["<|s_0|>"], inworld["<|s_10000|>"]) == (128_256, 128_257)
    assert (inworld["<|speech_end|>"], inworld["<|speech_start|>"]) == (193_794, 193_795)
    llasa = {token: LLAMA3_ROWS + i for i, token in enumerate(LLASA.tokens)}
    assert llasa["<|s_0|>"] == 128_264
    assert llasa["<|SPEECH_GENERATION_END|>"] == 128_261


@pytest.mark.parametrize("layout", FOREIGN_LAYOUTS.values(), ids=FOREIGN_LAYOUTS)
def test_every_token_of_theirs_has_a_row_of_ours_of_its_own(layout: VocabularyLayout) -> None:
    rows_R = layout.rows_of_ours(VOCABULARY)
    assert len(rows_R) == layout.num_rows
    assert len(np.unique(rows_R)) == len(rows_R)
    assert (rows_R >= 0).all()
    assert (rows_R < VOCABULARY.num_used_rows).all()


def test_specials_are_those_that_do_the_same_work() -> None:
    for layout, theirs, ours in (
        (INWORLD, "<|speech_end|>", "<|speech_end|>"),
        (INWORLD, "<|text_prompt_start|>", "<|text_start|>"),
        (INWORLD, "<|extra_token_55|>", "<|reserved_speech_57|>"),
        (LLASA, "<|SPEECH_GENERATION_END|>", "<|speech_end|>"),
        (LLASA, "<|TEXT_UNDERSTANDING_START|>", "<|text_start|>"),
    ):
        row = LLAMA3_ROWS + layout.tokens.index(theirs)
        assert layout.rows_of_ours(VOCABULARY)[row] == VOCABULARY.special(ours), theirs


def test_codes_of_both_layouts_are_the_same_codes_of_ours() -> None:
    for layout in FOREIGN_LAYOUTS.values():
        ids_N = np.array([LLAMA3_ROWS + layout.tokens.index(f"<|s_{code}|>") for code in (0, 7, 10_000, 65_535)])
        assert VOCABULARY.ids_to_codes(layout.rows_of_ours(VOCABULARY)[ids_N]).tolist() == [0, 7, 10_000, 65_535]


def test_foreign_bases_are_refused() -> None:
    with pytest.raises(VocabularyError, match="128256 base rows, this vocabulary 151936"):
        INWORLD.rows_of_ours(Vocabulary(151_936, 0, 1))


def test_a_layout_is_read_from_a_tokenizer_by_name() -> None:
    added = [{"id": LLAMA3_ROWS + i, "content": token} for i, token in enumerate(LLASA.tokens)]
    read = layout_of_tokenizer({"added_tokens": added}, LLAMA3_ROWS, "theirs")
    np.testing.assert_array_equal(read.rows_of_ours(VOCABULARY), LLASA.rows_of_ours(VOCABULARY))
    with pytest.raises(VocabularyError, match="without gaps"):
        layout_of_tokenizer({"added_tokens": added[:5] + added[6:]}, LLAMA3_ROWS, "theirs")
    with pytest.raises(VocabularyError, match=r"65,536 speech codes .* 1 are not among them"):
        layout_of_tokenizer({"added_tokens": added[:-1]}, LLAMA3_ROWS, "theirs")
