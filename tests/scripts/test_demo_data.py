"""The bundled stores and the rules they were made by: what is held out is held out, and versions agree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_speech.codec.load import load_codec
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Store, open_store
from titan_speech.tokenization.text_tokenizer import TextTokenizer

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo_data"
sys.path.insert(0, str(ROOT / "scripts"))

from corpus.sentences import is_readable_sentence, is_speakable, readable_pieces  # noqa: E402 # pyright: ignore
from corpus.split import heldout_keys, plain  # noqa: E402 # pyright: ignore

INDIC = {"as", "bn", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te"}


@pytest.fixture(scope="module")
def train() -> Store:
    return open_store(DEMO)


@pytest.fixture(scope="module")
def heldout() -> Store:
    return open_store(DEMO / "heldout")


def rows(store: Store) -> list:
    return [part.row(i) for part in store.parts for i in range(part.num_samples)]


def test_stores_take_at_most_three_megabytes_and_say_their_licence(train: Store) -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 3_000_000
    assert "CC-BY-SA-3.0" in train.manifest.licence
    assert "CC-BY-SA-3.0" in (DEMO / "README.md").read_text()


def test_stores_are_of_the_codec_and_tokenizer_in_the_repository(train: Store, heldout: Store) -> None:
    codec, tokenizer = load_codec("embedded"), TextTokenizer.load(ROOT / "tokenizer/tiny")
    for store in (train, heldout):
        assert store.manifest.codec is not None
        assert store.manifest.codec.hash == codec.codec_hash
        assert store.manifest.tokenizer.fingerprint == tokenizer.fingerprint


def test_there_is_paired_speech_only_and_text_only_data_in_sixteen_languages(train: Store) -> None:
    speech = [part for part in train.manifest.parts if part.kind is Kind.SPEECH]
    assert {part.language for part in speech} == INDIC | {"en", "es", "fr", "it", "ru"}
    assert {part.dataset_source for part in speech if part.variants} == {"asterisk", "espeak"}
    assert {part.dataset_source for part in speech if not part.variants} == {"asterisk-speech", "espeak-speech"}
    text = [part for part in train.manifest.parts if part.kind is Kind.TEXT]
    assert 150_000 <= sum(part.num_tokens for part in text) <= 200_000


def test_no_sample_is_in_two_places(train: Store, heldout: Store) -> None:
    ids = [row.sample_id for store in (train, heldout) for row in rows(store)]
    assert len(ids) == len(set(ids))


def test_no_heldout_transcript_or_prompt_is_trained_on(train: Store, heldout: Store) -> None:
    def prompts(store: Store) -> set[str]:  # the prompt's name without its language: asterisk-en/vm-and -> vm-and
        return {row.sample_id.split("/", 1)[1] for row in rows(store) if row.dataset_source.startswith("asterisk")}

    def texts(store: Store) -> set[tuple[str, str]]:
        return {(row.language, plain(row.transcript_native)) for row in rows(store) if row.transcript_native}

    assert not prompts(train) & prompts(heldout)
    assert not texts(train) & texts(heldout)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([f"key{i}" for i in range(60)]),
            st.sampled_from(["en", "hi"]),
            st.sampled_from("abcdefghij"),
        ),
        max_size=40,
    )
)
def test_prompts_that_share_a_key_or_a_text_fall_on_one_side(prompts: list[tuple[str, str, str]]) -> None:
    heldout = heldout_keys(prompts)
    for key, language, text in prompts:
        for other, other_language, other_text in prompts:
            if key == other or (language, text) == (other_language, other_text):
                assert (key in heldout) == (other in heldout)


def test_about_nine_per_cent_of_prompts_are_held_out() -> None:
    prompts = [(f"prompt {i}", "en", f"text {i}") for i in range(5000)]
    assert 0.08 < len(heldout_keys(prompts)) / 5000 < 0.10


@pytest.mark.parametrize("text", ["<b>गाढ़ा</b> पाठ यहाँ है", "%s फ़ाइल नहीं मिली", "~खोलें और सहेजें", "PDF फ़ाइल खोलें अभी"])
def test_strings_that_a_voice_would_spell_out_are_not_spoken(text: str) -> None:
    assert not is_speakable(text, "hi")


def test_plain_sentences_are_spoken_and_long_paragraphs_are_cut_at_sentences() -> None:
    sentence = "अन्य दस्तावेज़ों के मैक्रो सुलभ नहीं है।"
    assert is_readable_sentence(sentence, "hi")
    pieces = readable_pieces(" ".join([sentence] * 10))
    assert " ".join(pieces) == " ".join([sentence] * 10)
    assert all(is_readable_sentence(piece, "hi") for piece in pieces)
