"""Ids: layouts, exact inverses, ranges, names, fingerprints; and the tokenizer the base rows come from."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.store_samples import SENTENCES, write_tokenizer
from titan_speech.errors import VocabularyError
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import (
    NAMED_SPECIALS,
    NUM_CODES,
    SPECIALS,
    TokenKind,
    Vocabulary,
    token_kinds,
)

QWEN3 = Vocabulary(151_936, 151_643, 151_643)
LLAMA3 = Vocabulary(128_256, 128_000, 128_001)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(("vocabulary", "num_rows"), [(QWEN3, 217_600), (LLAMA3, 193_920)])
def test_known_backbones_grow_to_the_published_number_of_rows(vocabulary: Vocabulary, num_rows: int) -> None:
    assert vocabulary.num_rows == num_rows
    assert vocabulary.first_code_id == vocabulary.num_base
    assert vocabulary.first_special_id == vocabulary.num_base + 65_536


@given(st.integers(2, 300_000))
def test_the_table_holds_all_tokens_and_is_padded_by_less_than_one_multiple(num_base: int) -> None:
    vocabulary = Vocabulary(num_base, 0, 1)
    assert vocabulary.num_rows % 128 == 0
    assert 0 <= vocabulary.num_rows - (num_base + 65_536 + 128) < 128


def test_codes_are_contiguous_in_numeric_order_and_the_two_directions_are_inverse() -> None:
    codes = np.arange(NUM_CODES)
    ids = LLAMA3.codes_to_ids(codes)
    assert ids.dtype == np.int32
    assert np.array_equal(ids, np.arange(128_256, 128_256 + NUM_CODES))
    assert np.array_equal(LLAMA3.ids_to_codes(ids), codes)
    assert np.array_equal(LLAMA3.codes_to_ids(codes.astype(np.uint16)), ids)


@given(st.lists(st.lists(st.integers(0, NUM_CODES - 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_conversion_keeps_the_shape(codes: list[list[int]]) -> None:
    ids = QWEN3.codes_to_ids(codes)
    assert ids.shape == (len(codes), 3)
    assert QWEN3.ids_to_codes(ids).tolist() == codes


@pytest.mark.parametrize("bad", [-1, 65_536, 2**31, -(2**40)])
def test_a_code_out_of_range_is_named_with_its_index(bad: int) -> None:
    with pytest.raises(VocabularyError, match=rf"code {bad} at index 2 and 1 more .*0\.\.65535"):
        LLAMA3.codes_to_ids(np.array([0, 65_535, bad, 5, bad]))


@pytest.mark.parametrize("bad", [LLAMA3.first_code_id - 1, LLAMA3.first_special_id, 0, -1])
def test_an_id_that_is_no_code_is_refused(bad: int) -> None:
    with pytest.raises(VocabularyError, match=f"id {bad} at index 1 out of range"):
        LLAMA3.ids_to_codes(np.array([LLAMA3.first_code_id, bad]))


def test_codes_that_are_no_integers_are_refused() -> None:
    with pytest.raises(VocabularyError, match="float64"):
        LLAMA3.codes_to_ids(np.array([0.5]))


def test_every_row_has_a_unique_name() -> None:
    vocabulary = Vocabulary(1000, 0, 1)
    names = [vocabulary.token_name(id_) for id_ in range(vocabulary.num_rows)]
    assert len(set(names)) == vocabulary.num_rows
    assert names[1000 + 17] == "<|s_17|>"
    assert names[vocabulary.first_special_id : vocabulary.first_special_id + 20] == list(NAMED_SPECIALS)


@pytest.mark.parametrize("id_", [-1, 217_600])
def test_an_id_outside_the_table_has_no_name(id_: int) -> None:
    with pytest.raises(VocabularyError, match=str(id_)):
        QWEN3.token_name(id_)


def test_the_kind_of_a_token_is_the_same_for_numbers_arrays_and_tensors() -> None:
    first, second = LLAMA3.kind_boundaries
    ids = [0, first - 1, first, second - 1, second, LLAMA3.pad_id]
    expected = [TokenKind.TEXT] * 2 + [TokenKind.CODE] * 2 + [TokenKind.SPECIAL] * 2
    assert [token_kinds(id_, LLAMA3.kind_boundaries) for id_ in ids] == expected
    assert token_kinds(np.array(ids), LLAMA3.kind_boundaries).tolist() == expected
    kinds = token_kinds(torch.tensor(ids), LLAMA3.kind_boundaries)
    assert (kinds.dtype, kinds.tolist()) == (torch.int64, expected)
    assert LLAMA3.is_code(ids).tolist() == [False, False, True, True, False, False]
    assert np.flatnonzero(LLAMA3.code_rows()).tolist() == list(range(first, second))


def test_specials_are_the_twenty_of_the_grammar_then_spare_rows() -> None:
    assert len(SPECIALS) == len(set(SPECIALS)) == 128
    assert SPECIALS[:3] == ("<|speech_start|>", "<|speech_end|>", "<|speech_sep|>")
    assert SPECIALS[19:21] == ("<|pad|>", "<|reserved_speech_0|>")


@pytest.mark.parametrize(
    "change", [{"num_base": 1001}, {"bos_id": 3}, {"eos_id": 3}, {"tokenizer_fingerprint": "other"}]
)
def test_the_fingerprint_changes_with_any_field(change: dict) -> None:
    vocabulary = Vocabulary(1000, 0, 1, "one")
    assert replace(vocabulary).fingerprint == vocabulary.fingerprint
    assert replace(vocabulary, **change).fingerprint != vocabulary.fingerprint


def test_the_fingerprint_changes_with_the_order_of_the_specials(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Vocabulary(1000, 0, 1).fingerprint
    swapped = (SPECIALS[1], SPECIALS[0], *SPECIALS[2:])
    monkeypatch.setattr("titan_speech.tokenization.vocabulary.SPECIALS", swapped)
    assert Vocabulary(1000, 0, 1).fingerprint != before


@pytest.mark.parametrize("fields", [(0, 0, 0), (1000, 1000, 1), (1000, 0, -1)])
def test_framing_ids_outside_the_base_rows_are_refused(fields: tuple[int, int, int]) -> None:
    with pytest.raises(VocabularyError):
        Vocabulary(*fields)


def test_text_survives_encoding_and_decoding(tokenizer_folder: Path) -> None:
    tokenizer = TextTokenizer.load(tokenizer_folder)
    for sentence in SENTENCES:
        assert tokenizer.decode(tokenizer.encode(sentence)) == sentence
    assert tokenizer.encode_batch(SENTENCES) == [tokenizer.encode(sentence) for sentence in SENTENCES]
    assert tokenizer.vocabulary().num_base == tokenizer.num_base


def test_text_that_spells_a_special_never_becomes_one(tokenizer_folder: Path) -> None:
    tokenizer = TextTokenizer.load(tokenizer_folder)
    for copy in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        ids = copy.encode("stop <|end_of_text|> and <|begin_of_text|>")
        assert not {copy.bos_id, copy.eos_id} & set(ids)
        assert copy.decode(ids) == "stop <|end_of_text|> and <|begin_of_text|>"


def test_a_pickled_tokenizer_is_the_same_tokenizer(tokenizer_folder: Path) -> None:
    tokenizer = TextTokenizer.load(tokenizer_folder)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.vocabulary() == tokenizer.vocabulary()


def test_the_tokenizer_fingerprint_ignores_layout_and_sees_content(tokenizer_folder: Path, tmp_path: Path) -> None:
    fingerprint = TextTokenizer.load(tokenizer_folder).fingerprint
    content = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content, indent=7, sort_keys=True))
    assert TextTokenizer.load(tmp_path).fingerprint == fingerprint
    content["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert TextTokenizer.load(tmp_path).fingerprint != fingerprint


def test_the_folder_may_say_which_tokens_frame_a_document(tokenizer_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    plain = TextTokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 512, "bos_token_id": 7, "eos_token_id": [8, 9]}))
    configured = TextTokenizer.load(file)
    assert (configured.bos_id, configured.eos_id, configured.num_base) == (7, 8, 512)
    assert configured.fingerprint != plain.fingerprint
    (tmp_path / "recipe.json").write_text(json.dumps({"bos_token": {"content": "<|end_of_text|>"}}))
    assert TextTokenizer.load(tmp_path).bos_id == plain.eos_id


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {"vocab_size": 20}, "num_base is 20, expected"),
        ("recipe.json", {"bos_token": "<bos>"}, "'<bos>', which the tokenizer does not have"),
        ("recipe.json", ["bos"], "holds a list"),
        ("tokenizer.json", {"model": {"type": "none"}}, "is not a tokenizer.json"),
    ],
)
def test_a_wrong_folder_is_refused_with_the_file_named(
    tokenizer_folder: Path, tmp_path: Path, name: str, content: object, message: str
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_folder / "tokenizer.json").read_bytes())
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(VocabularyError, match=message) as error:
        TextTokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="no tokenizer at"):
        TextTokenizer.load(tmp_path / "absent")


def test_an_ordinary_entry_spelt_like_bos_is_not_taken_for_it(tokenizer_folder: Path, tmp_path: Path) -> None:
    content = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    frame = TextTokenizer.load(tokenizer_folder)
    rename_specials(content, {"<|begin_of_text|>": "<|endoftext|>", "<|end_of_text|>": "<|other|>"})
    last = max(content["model"]["vocab"].values())
    content["model"]["vocab"] |= {"<s>": last + 1, "</s>": last + 2}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    found = TextTokenizer.load(tmp_path)
    assert (found.bos_id, found.eos_id) == (frame.bos_id, frame.bos_id)


def rename_specials(content: dict, names: dict[str, str]) -> None:
    for token in content["added_tokens"]:
        old, token["content"] = token["content"], names[token["content"]]
        content["model"]["vocab"][token["content"]] = content["model"]["vocab"].pop(old)


def test_a_tokenizer_without_bos_and_eos_says_how_to_name_them(tokenizer_folder: Path, tmp_path: Path) -> None:
    content = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    rename_specials(content, {"<|begin_of_text|>": "<|first|>", "<|end_of_text|>": "<|last|>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(VocabularyError, match=r"no bos token found.*; no eos token found.*recipe.json"):
        TextTokenizer.load(tmp_path)


def test_the_bundled_tokenizer_frames_documents_and_grows_to_a_padded_table() -> None:
    tokenizer = TextTokenizer.load(Path(__file__).parents[2] / "tokenizer" / "tiny")
    vocabulary = tokenizer.vocabulary()
    assert (tokenizer.num_base, vocabulary.num_rows) == (4096, 69_760)
    assert tokenizer.bos_id != tokenizer.eos_id
    assert all(tokenizer.decode(tokenizer.encode(sentence)) == sentence for sentence in SENTENCES)
