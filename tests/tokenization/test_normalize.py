"""Normalisation: one spelling, settled after one pass, of text of any shape."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_speech.tokenization.normalize import MAX_MARKS, RULES_VERSION, normalization_version, normalize

DOCUMENTS = [json.loads(line) for line in (Path(__file__).parents[1] / "assets/documents.jsonl").open(encoding="utf-8")]
TRICKY = "\u200c\u200d\u094d\u093c\u0905\u093e\u09a4\u09cd"
TRICKY += "\u0d28\u0d4d\u0d57\u0b57\u0c55\u064e\u06cc।॥| \n\t.!?-'\"`´Ã¤â€œ™१ﬁＡ"
DIGEST_OF_RULES = {2: "5d126d9b7dcab06d"}


@settings(max_examples=400, deadline=None)
@given(
    st.text(alphabet=st.one_of(st.characters(), st.sampled_from(TRICKY))),
    st.sampled_from(["en", "hi", "bn", "ml", "ur"]),
)
def test_a_second_pass_changes_nothing(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once


def test_real_text_comes_out_as_the_version_says() -> None:
    """Fails when a rule changes without a new number in RULES_VERSION."""
    digest = hashlib.sha256()
    stacked = {"text": "a" + 40 * "\u0301", "language": "en"}
    for document in [*DOCUMENTS, stacked]:
        digest.update(normalize(document["text"], document["language"]).encode())
    assert digest.hexdigest()[:16] == DIGEST_OF_RULES[RULES_VERSION]
    assert normalization_version().startswith(f"text-{RULES_VERSION}.unicode-")


@pytest.mark.parametrize(
    ("language", "typed", "expected"),
    [
        pytest.param("hi", "\u0958\u093f\u0932\u093e", "\u0915\u093c\u093f\u0932\u093e", id="nukta letter, decomposed"),
        pytest.param("hi", "\u0928\u093c", "\u0929", id="nukta letter that NFC composes"),
        pytest.param("hi", "\u0915\u094d\u093c", "\u0915\u093c\u094d", id="nukta before virama"),
        pytest.param("bn", "\u09dc", "\u09a1\u09bc", id="Bengali rra"),
        pytest.param("bn", "\u0995\u09c7\u09be", "\u0995\u09cb", id="two-part vowel sign"),
        pytest.param("bn", "\u09a4\u09cd\u200d", "\u09ce", id="khanda ta"),
        pytest.param("ml", "\u0d05\u0d35\u0d28\u0d4d\u200d", "\u0d05\u0d35\u0d7b", id="chillu"),
        pytest.param("hi", "\u0905\u093e\u092a", "\u0906\u092a", id="vowel of two characters"),
        pytest.param("hi", "\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937", id="ZWJ shapes a half form"),
        pytest.param("hi", "\u0915\u094d\u200c\u0937", "\u0915\u094d\u200c\u0937", id="ZWNJ keeps the virama visible"),
        pytest.param("bn", "\u09b0\u200d\u09cd\u09af", "\u09b0\u200d\u09cd\u09af", id="ZWJ before virama"),
        pytest.param("hi", "\u0915\u200d\u093e \u200c", "\u0915\u093e", id="stray joiners"),
        pytest.param(
            "ur", "\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e", id="ZWNJ inside a word of Arabic script"
        ),
        pytest.param("hi", "ठीक है |", "ठीक है।", id="bar as danda"),
        pytest.param("en", "a | b", "a | b", id="bar that is none"),
        pytest.param("gu", "\u0a95\u0ae4", "\u0a95।", id="danda at an unassigned place"),
        pytest.param("ta", "௧௨ १२ ۳", "12 12 3", id="digits of every script"),
        pytest.param("en", "“Don’t” – she said… ", '"Don\'t" - she said...', id="quotes, dashes, dots"),
        pytest.param("en", "ＡＢＣ ﬁne x²", "ABC fine x²", id="folded, but powers stay"),
        pytest.param("de", "schÃ¶n", "schön", id="mojibake"),
        pytest.param("en", "a\u00adb\ufeff\u202e c\r\n\r\n\r\n\r\nd", "ab c\n\nd", id="invisible, line ends"),
        pytest.param("en", "no!!!!!!", "no!!!", id="repeated marks"),
    ],
)
def test_one_spelling(language: str, typed: str, expected: str) -> None:
    assert normalize(typed, language) == expected


LONG = 200_000


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u094d\u093c"])
def test_a_letter_with_a_million_marks_is_normalized_and_keeps_thirty_two(marks: str) -> None:
    """Unicode's canonical order of all of them would take an hour."""
    found = normalize("x" + marks * (5 * LONG // 2), "hi")
    assert found == normalize(found, "hi")
    assert found[0] == "x"
    assert len(found) == 1 + MAX_MARKS
