"""Markup goes, nothing that a reader would speak is lost, and no text takes a parser out of proportion."""

from __future__ import annotations

import pytest

from titan_speech.importers.markup import TangledMarkupError, strip_markup
from titan_speech.tokenization.normalize import normalize


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
