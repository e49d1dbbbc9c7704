"""Normalisation and stripping: one spelling, settled after one pass, and nothing a reader would speak is lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_speech.importers.language_id import identify, language_fits, script_share
from titan_speech.importers.markup import TangledMarkupError, strip_markup
from titan_speech.tokenization.languages import script_of, tag_of_path, to_tag
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


@pytest.mark.parametrize(
    ("text", "expected", "kinds"),
    [
        ("<p>One &amp; two</p><p>three</p>", ["One & two", "three"], {"html"}),
        ("<div>a<script>x()</script><table><tr><td>1</td></tr></table>b</div>", ["ab"], {"html", "table"}),
        ("Say x<y and y>z, 3 < 4", ["Say x<y and y>z, 3 < 4"], set()),
        ("before\n```python\nx = 1\n```\nafter", ["before", "after"], {"code"}),
        ("text\nint main() {\n  return x;\n}\nend", ["text", "end"], {"code"}),
        ("He said (yes);\nthen he left.", ["He said (yes);", "then he left."], set()),
        ("| a | b |\n|---|---|\n| 1 | 2 |\nrest", ["rest"], {"table"}),
        ("see https://x.org/a?b=1 and me@x.org or [the page](https://y.com).", ["see and or the page."], {"url"}),
        ("AT&T, 5.5 percent of U.S. trade", ["AT&T, 5.5 percent of U.S. trade"], set()),
    ],
)
def test_markup_goes_and_words_stay(text: str, expected: list[str], kinds: set[str]) -> None:
    stripped, found = strip_markup(text)
    assert [line for line in normalize(stripped, "en").split("\n") if line] == expected
    assert found == kinds


LONG = 200_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a.a." * (LONG // 4) + " x.com", id="dots"),
        pytest.param("a-" * (LONG // 2) + " x.com", id="hyphens"),
        pytest.param("me@x.org " + "a+" * (LONG // 2), id="local part without a domain"),
        pytest.param("a@" * (LONG // 2), id="at signs"),
        pytest.param("a@b" + "." * LONG, id="domain that never ends"),
        pytest.param("www.x.org " + "a" * LONG, id="one word"),
        pytest.param("\n".join([" " * (LONG // 6) + ";" * (LONG // 6) + "x"] * 3), id="indented lines of code"),
        pytest.param("<a " * (LONG // 3), id="tags that never close"),
        pytest.param("[" * LONG + "](", id="links that never close"),
    ],
)
def test_no_text_makes_a_pattern_quadratic(text: str) -> None:
    """Each takes about a second; a search that starts anew at every character would take hours."""
    strip_markup(text)


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u094d\u093c"])
def test_a_letter_with_a_million_marks_is_normalized_and_keeps_thirty_two(marks: str) -> None:
    """Unicode's canonical order of all of them would take an hour."""
    found = normalize("x" + marks * (5 * LONG // 2), "hi")
    assert found == normalize(found, "hi")
    assert found[0] == "x"
    assert len(found) == 1 + MAX_MARKS


TANGLED = {
    "elements": "<div>" * 20_000,
    "lists": "<ul><li>x" * 20_000,
    "closed elements that were never open": "<div></x>" * 20_000,
    "formatting that each paragraph repeats": "".join(f"<b id={i}>" for i in range(900)) + "<p>x" * 20_000,
    "formatting closed where it is not open": "".join(f"<b id={i}><object></b></object>" for i in range(5_000)),
    "attributes": "<p " + " ".join(f"a{i}=1" for i in range(20_000)) + ">x",
    "attributes without spaces": "<p>x<p/" + "/".join(f"a{i}" for i in range(20_000)) + ">x",
    "quoted attributes": "<p " + " ".join(f'a{i}=">"' for i in range(20_000)) + ">x",
    "quotes that are none": '<p ="/' + "/".join(f"a{i}" for i in range(20_000)) + '">x',
}


@pytest.mark.parametrize("text", TANGLED.values(), ids=TANGLED)
def test_markup_that_takes_a_parser_out_of_proportion_is_refused_before_it(text: str) -> None:
    with pytest.raises(TangledMarkupError, match="never closed"):
        strip_markup(text)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("<p>two words</p>\n" * 20_000, id="paragraphs"),
        pytest.param("<p>two words\n" * 20_000, id="paragraphs without ends"),
        pytest.param("<ul>" + "<li><a href='http://x.org/y'>two words</a>\n" * 20_000, id="list of links"),
        pytest.param("<p><font color=red>two words\n" * 20_000, id="formatting without ends"),
        pytest.param("<div>" * 20 + "<b><i>two words</i></b><br>\n" * 20_000, id="formatting in nested elements"),
        pytest.param("<div><span>two words</div>\n" * 20_000, id="an element closed by the one around it"),
        pytest.param(f'<img alt="x" src="data:image/png;base64,{"A/b+" * 250_000}">two words', id="picture in a page"),
    ],
)
def test_large_pages_as_people_write_them_are_parsed(page: str) -> None:
    text, kinds = strip_markup(page)
    assert kinds == {"html"}
    assert text.count("two words") == page.count("two words")


@pytest.mark.parametrize("local", ["a" * 64, "first.last+tag"])
@pytest.mark.parametrize("domain", ["x.org", "a" * 63 + ".com", ".".join("abcdefghijklmno") + ".net"])
def test_the_longest_names_that_exist_are_removed(local: str, domain: str) -> None:
    assert strip_markup(f"to {local}@{domain} at {domain}/page now") == ("to   at   now", {"url"})


def test_every_language_of_the_recipe_is_told_from_the_others() -> None:
    for document in DOCUMENTS:
        text = normalize(document["text"], document["language"])
        assert identify(text) == document["language"]
        assert language_fits(text, document["language"])[0]
        assert script_share(text, document["language"]) > 0.9
    assert len({document["language"] for document in DOCUMENTS}) == 12


def test_a_tag_that_is_wrong_is_seen() -> None:
    hindi = next(document["text"] for document in DOCUMENTS if document["language"] == "hi")
    assert language_fits(hindi, "mr") == (False, "hi")
    assert script_share(hindi, "ta") < 0.1


def test_tags_of_sources_become_those_of_a_store() -> None:
    names = ["hin", "hin_Deva", "Hindi", "hi-IN", "hin_Latn", "eng_Latn", "ory", "pan_Guru", "xx1"]
    assert [to_tag(name) for name in names] == ["hi", "hi", "hi", "hi-IN", "hi-Latn", "en", "or", "pa", "xx1"]
    names = ["pan_Arab", "pa-arab", "ben_Mtei", "aze_Cyrl", "zh_Hant", "urd_Arab", "sat_Olck", "de-1901"]
    tags = ["pa-Arab", "pa-Arab", "bn-Mtei", "aze-Cyrl", "zh-Hant", "ur", "sat-Olck", "de-1901"]
    assert [to_tag(name) for name in names] == tags
    assert script_of("de-1901") == "Latin"
    paths = [
        "hi/hi_part_00000.parquet",
        "verified/hin/data-0.parquet",
        "synthetic/hin_Latn/d.parquet",
        "pan_Arab/d.jsonl",
        "hi-1.txt",
        "a/b",
    ]
    assert [tag_of_path(Path(path)) for path in paths] == ["hi", "hi", "hi-Latn", "pa-Arab", "hi", None]


def test_text_is_compared_with_the_script_that_its_tag_names() -> None:
    shahmukhi, gurmukhi = "ایہہ پنجابی وچ لکھیا ہویا اک جملہ اے", "ਇਹ ਪੰਜਾਬੀ ਵਿੱਚ ਲਿਖਿਆ ਹੋਇਆ ਇੱਕ ਵਾਕ ਹੈ"
    assert script_share(shahmukhi, "pa-Arab") == script_share(gurmukhi, "pa") == 1
    assert script_share(shahmukhi, "pa") == script_share(gurmukhi, "pa-Arab") == 0
    assert language_fits(shahmukhi, "pa-Arab")[0], "identification knows Punjabi in one script only"
