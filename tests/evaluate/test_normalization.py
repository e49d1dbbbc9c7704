"""Texts that say the same are the same, in every language; scoring a text twice changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.runs import ROOT
from titan_speech.errors import DataError
from titan_speech.evaluate.normalization.lattice import Spellings, read_spellings
from titan_speech.evaluate.normalization.numerals import SPOKEN
from titan_speech.evaluate.normalization.scoring import ScoringRules, share_in_script
from titan_speech.store.reader import open_store

DIGITS = ScoringRules("digits")
BLOCKS = {
    "hi": (0x900, 0x97F), "mr": (0x900, 0x97F), "bn": (0x980, 0x9FF), "as": (0x980, 0x9FF), "pa": (0xA00, 0xA7F),
    "gu": (0xA80, 0xAFF), "or": (0xB00, 0xB7F), "ta": (0xB80, 0xBFF), "te": (0xC00, 0xC7F), "kn": (0xC80, 0xCFF),
    "ml": (0xD00, 0xD7F), "ur": (0x600, 0x6FF), "ru": (0x400, 0x45F), "en": (0x20, 0x7E), "es": (0xA0, 0x17F),
    "fr": (0xA0, 0x17F), "de": (0xA0, 0x17F), "it": (0xA0, 0x17F), "pt": (0xA0, 0x17F),
}  # fmt: skip
SAME = [
    ("hi", "हिन्दी", "हिंदी"),  # a nasal before its class, as a letter or as a dot
    ("hi", "ज़रूर", "जरूर"),  # a borrowed sound with or without nukta
    ("hi", "ज़रूर", "\u095bरूर"),  # nukta composed and not
    ("hi", "हाँ।", "हां"),
    ("hi", "क्\u200dया", "क्या"),
    ("hi", "कमरा १२३", "कमरा 123"),
    ("hi", "1,00,000 लोग", "१००००० लोग"),
    ("mr", "अन्त", "अंत"),
    ("pa", "ਪੰਜਾਬ", "ਪਂਜਾਬ"),
    ("pa", "ਅੱਜ", "ਅਜ"),
    ("gu", "અન્ત", "અંત"),
    ("te", "అంత.", "అన్త"),
    ("kn", "ಅಂತ!", "ಅನ್ತ"),
    ("bn", "কত\u09cd\u200d", "কৎ"),
    ("as", "কৰা", "করা"),
    ("or", "ଵାରି", "ୱାରି"),
    ("ml", "എന്റെ", "എൻറെ"),
    ("ml", "അവന\u0d4d\u200d", "അവൻ"),
    ("ta", "கொ", "க\u0bc6\u0bbe"),
    ("ur", "كيا", "کیا"),
    ("ur", "اُردُو", "اردو"),
    ("ur", "هے۔", "ہے"),
    ("ru", "Всё ещё?", "все еще"),
    ("en", "Don't — STOP!", "dont stop"),
    ("en", "well-known", "well known"),
    ("fr", "L’eau", "l eau"),
    ("de", "Straße 1.000", "strasse 1000"),
    ("es", "¿Qué?", "qué"),
]
DIFFERENT = [
    ("hi", "सड़क", "सडक"),  # rra is another sound than da
    ("hi", "कल", "काल"),
    ("es", "si", "sí"),
    ("ur", "گھر", "گر"),
    ("ta", "பல்", "பள்"),
    ("bn", "কি", "কী"),
]


def texts(language: str) -> st.SearchStrategy[str]:
    """Characters of the script, digits, marks, joiners and a little of everything."""
    first, last = BLOCKS[language]
    own = st.characters(min_codepoint=first, max_codepoint=last)
    others = st.sampled_from("09.,'’- \u200c\u200d।۔\u0951५٣aZ\u00df\u0130ﬁ①")
    return st.text(st.one_of(own, own, others, st.characters()), max_size=24)


@pytest.mark.parametrize("language", BLOCKS)
def test_scoring_a_text_twice_gives_the_same(language: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(texts(language))
    def check(text: str) -> None:
        once = DIGITS(text, language)
        assert DIGITS(once, language) == once
        assert once == once.casefold()
        assert once == " ".join(once.split())

    check()


@pytest.mark.parametrize(("language", "one", "other"), SAME)
def test_spellings_of_one_word_are_equal(language: str, one: str, other: str) -> None:
    assert DIGITS(one, language) == DIGITS(other, language) != ""


@pytest.mark.parametrize(("language", "one", "other"), DIFFERENT)
def test_other_words_stay_different(language: str, one: str, other: str) -> None:
    assert DIGITS(one, language) != DIGITS(other, language)


def test_real_transcripts_keep_their_words_and_marks() -> None:
    for part in open_store(ROOT / "demo_data").parts:
        if "native" not in part.variants:
            continue
        for i in range(min(8, part.num_samples)):
            text = part.row(i).transcript_native or ""
            scored = DIGITS(text, part.language)
            assert DIGITS(scored, part.language) == scored
            assert abs(len(scored.split()) - len(text.split())) <= max(4, len(text.split()) // 2), (text, scored)
            share = share_in_script(text, part.language)
            assert share is None or share > 0.4, text


def test_the_script_of_a_text_is_counted_by_letters() -> None:
    assert share_in_script("यह हिंदी है", "hi") == 1.0
    assert share_in_script("yah hindi hai", "hi") == 0.0
    assert share_in_script("12 !", "hi") is None
    assert share_in_script("word", "xx") is None
    assert share_in_script("اردو", "ur") == 1.0


def test_accepted_spellings_become_slots(tmp_path: Path) -> None:
    file = tmp_path / "spellings.tsv"
    file.write_text("# a comment\nen\tweb site\twebsite\ten\nhi\tफ़ोन\tफोन\tफून\n")
    found = read_spellings(file, DIGITS)
    slots = found.slots(("my", "web", "site"), "en-IN")
    assert slots == [(("my",),), (("web", "site"), ("website",), ("en",))]
    assert found.slots(("web",), "en") == [(("web",),)]
    assert Spellings().slots(("a", "b"), "en") == [(("a",),), (("b",),)]
    assert found.version != Spellings().version
    for wrong in ("en\tone\n", "en\tone\t!\n", "en\ta\tb\nen\tb\tc\n"):
        file.write_text(wrong)
        with pytest.raises(DataError, match="line"):
            read_spellings(file, DIGITS)


class TestNumbersAsWords:
    """With the libraries of the eval extra."""

    @pytest.fixture(autouse=True)
    def _libraries(self) -> None:
        pytest.importorskip("num2words", reason="needs the eval extra")
        pytest.importorskip("indic_numtowords", reason="needs the eval extra")

    @pytest.mark.parametrize(
        ("language", "digits", "words"),
        [
            ("en", "25 men", "twenty-five men"),
            ("en", "the 3rd", "the third"),
            ("en", "3.5", "three point five"),
            ("en", "007", "zero zero seven"),
            ("fr", "1.000,5", "mille virgule cinq"),
            ("hi", "२५ लोग", "पच्चीस लोग"),
            ("ta", "4", "நான்கு"),
            ("ur", "۲", "دو"),
            ("ru", "3", "три"),
        ],
    )
    def test_a_number_is_what_is_said(self, language: str, digits: str, words: str) -> None:
        rules = ScoringRules()
        assert rules(digits, language) == rules(words, language)

    @pytest.mark.parametrize("language", sorted(SPOKEN))
    def test_numbers_as_words_have_no_digits_and_stay(self, language: str) -> None:
        rules = ScoringRules()

        @settings(max_examples=15, deadline=None)
        @given(st.lists(st.one_of(st.integers(0, 10**14).map(str), st.sampled_from(["0", "1,234", "1.234", "x"]))))
        def check(parts: list[str]) -> None:
            once = rules(" ".join(parts), language)
            assert rules(once, language) == once
            assert not any(letter.isdigit() for letter in once)

        check()
