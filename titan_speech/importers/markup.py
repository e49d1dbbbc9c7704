"""Remove from a document what nobody would read aloud: HTML, code, tables, URLs.

In: text of the web. Out: the text without them, and which of the four were found. `<...>` counts as a tag only if its
name is one of HTML's, so `x<y and y>z` stays; a document with tags is parsed (selectolax's Lexbor, a parser with the
rules of browsers; trafilatura, which is made to find the article in a whole page, drops most of a fragment). Code is
what is between Markdown fences, in <code> or <pre>, or at least three consecutive lines that look like code; a table is
at least two consecutive lines with two or more bars or tabs. Text without `<`, `&`, fences, bars, tabs and dots before
letters costs one search each.

Before a document is parsed, what the parser will have to do for it is estimated. The rules of browsers make parsers
slow for tags that nobody writes: every tag looks through the elements that are open (100 kB of `<div>` took 5 s, and
four times as much for twice the text), every attribute through the others of its tag (170 kB: 5 s), and every paragraph
repeats formatting that was never closed, so the tree can be many times the text. The sum of these is counted, from
above, in one pass of about 1 us per tag; it depends on the text alone, so what is kept is the same on every machine.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable

import regex
from selectolax.lexbor import LexborHTMLParser

TAGS = (
    "a|abbr|article|aside|b|blockquote|body|br|button|center|cite|code|div|dd|dl|dt|em|figcaption|figure|font|footer|"
    "form|h[1-6]|head|header|hr|html|i|iframe|img|input|label|li|link|main|meta|nav|noscript|ol|option|p|pre|q|s|"
    "script|section|select|small|span|strong|style|sub|sup|table|tbody|td|textarea|tfoot|th|thead|title|tr|u|ul|video"
)
DROPPED_TAGS = ["script", "style", "noscript", "iframe", "nav", "form", "button", "select", "textarea", "head", "svg"]
CODE_TAGS, TABLE_TAGS = ["pre", "code"], ["table"]
BLOCK_TAGS = (
    "p,div,section,article,li,ul,ol,dl,dt,dd,h1,h2,h3,h4,h5,h6,blockquote,figure,header,footer,main,aside,br,hr"
)

# Every repetition is bounded or possessive (`++`): web text without spaces must not make a search quadratic. The bounds
# are those of DNS and SMTP (a label 63 characters, a local part 64); longer names than 16 labels are not in use.
_TAG = regex.compile(rf"</?(?:{TAGS})(?:\s[^<>]*)?/?>|<!--|<!doctype", flags=regex.IGNORECASE)
_ENTITY = regex.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8});", flags=regex.IGNORECASE)
_FENCE = regex.compile(r"^[ \t]*(```|~~~)[^\n]*\n.*?(?:^[ \t]*\1[ \t]*$|\Z)", flags=regex.MULTILINE | regex.DOTALL)
_URL = regex.compile(
    r"(?:https?|ftp)://[^\s<>\"'()\[\]।]+|\bwww\.[^\s<>\"'()\[\]।]+|\b[\w.+-]{1,64}+@[\w-]{1,63}+\.[\w.-]*\w"
    r"|\b(?:[a-z0-9-]{1,63}+\.){1,16}(?:com|org|net|edu|gov)\b(?:/[^\s<>\"'()\[\]।]*)?",
    flags=regex.IGNORECASE,
)
_MARKDOWN_LINK = regex.compile(r"!?\[([^\[\]\n]*)\]\((?:https?://|www\.|/|#)[^()\s]*(?:\s\"[^\"\n]*\")?\)")
_CODE_LINE = regex.compile(
    r"^\s*+(?:[{}\])]+[;,]?|.*[;{]|//.*|#include.*|(?:def|class|import|from|return|function|var|let|const|public|private|"
    r"static|if|for|while|else|elif|try|except|print)\b.*[=(){}\[\]:;].*|[\w.\[\]]+\s*[+\-*]?=\s*[^=\s].*[\w\])\"';]|"
    r"[\w.]+\(.*\)[;:]?)\s*$"
)
_CODE_MARKS = regex.compile(r"[=(){}\[\];]")
_NEWLINE = "\ue000"
URL_MARKS = ("://", "www.", "@", ".com", ".org", ".net", ".edu", ".gov")
MIN_CODE_LINES, MIN_TABLE_LINES = 3, 2


class TangledMarkupError(ValueError):
    """Parsing the tags of a text would take time or memory out of all proportion to it."""


def strip_markup(text: str) -> tuple[str, set[str]]:
    """Remove markup.

    Returns:
        The text without it, and the kinds that were removed: `html`, `code`, `table`, `url`.

    Raises:
        TangledMarkupError: the text has tags, and `is_tangled`.
    """
    found: set[str] = set()
    if "```" in text or "~~~" in text:
        text = _substitute(_FENCE, "\n", text, "code", found)
    if "&" in text and _ENTITY.search(text) and not _TAG.search(text):
        text = html.unescape(text)
        found.add("html")
    if "<" in text and _TAG.search(text):
        text = _remove_html(text, found)
    text = _remove_line_runs(text, _is_table_line, MIN_TABLE_LINES, "table", found)
    text = _remove_line_runs(text, _is_code_line, MIN_CODE_LINES, "code", found)
    if "](" in text:
        text = _substitute(_MARKDOWN_LINK, r"\1", text, "url", found)
    if any(mark in text for mark in URL_MARKS):
        text = _substitute(_URL, " ", text, "url", found)
    return text, found


def _substitute(pattern: regex.Pattern[str], replacement: str, text: str, kind: str, found: set[str]) -> str:
    text, count = pattern.subn(replacement, text)
    if count:
        found.add(kind)
    return text


def _remove_html(text: str, found: set[str]) -> str:
    if is_tangled(text):
        raise TangledMarkupError("tags that are never closed, or a tag with thousands of attributes")
    found.add("html")
    tree = LexborHTMLParser(text.replace("\n", _NEWLINE))
    for kind, tags in (("code", CODE_TAGS), ("table", TABLE_TAGS)):
        if tree.css_first(",".join(tags)) is not None:
            found.add(kind)
    tree.strip_tags([*DROPPED_TAGS, *CODE_TAGS, *TABLE_TAGS])
    for node in tree.css(BLOCK_TAGS):
        node.insert_before("\n")
        node.insert_after("\n")
    body = tree.body
    return (body.text() if body is not None else "").replace(_NEWLINE, "\n")


def _is_table_line(line: str) -> bool:
    return line.count("|") >= 2 or line.count("\t") >= 2


def _is_code_line(line: str) -> bool:
    return bool(_CODE_MARKS.search(line)) and line.isascii() and bool(_CODE_LINE.match(line))


def _remove_line_runs(text: str, matches: Callable[[str], bool], min_lines: int, kind: str, found: set[str]) -> str:
    """Remove each run of at least `min_lines` lines that match."""
    lines = text.split("\n")
    if len(lines) < min_lines:
        return text
    kept: list[str] = []
    for is_match, run in itertools.groupby(lines, matches):
        some = list(run)
        if is_match and len(some) >= min_lines:
            found.add(kind)
            kept.append("")
        else:
            kept += some
    return "\n".join(kept)


WORK_PER_CHAR, FREE_WORK = 32, 4_000_000
"""Pages have 1 to 10 per character; a unit takes the parser about 25 ns."""
_WORK_PER_FORMAT = 64
"""A repeated formatting element is an allocation."""

_ANY_TAG = regex.compile(
    r"<(?P<close>/?)(?P<name>[a-z][^\s/>]*+)(?P<rest>(?:(?<=[\w-])=\s*+(?:\"[^\"]*+\"|'[^']*+')|[^>])*+)",
    flags=regex.IGNORECASE,
)
_QUOTED = regex.compile(r"(?<=[\w-])=\s*+(?:\"[^\"]*+\"|'[^']*+')")
_SEPARATOR = regex.compile(r"[\s/]++")
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_ENDS = {
    "p": {"p"},
    "li": {"li"},
    "dt": {"dt", "dd"},
    "dd": {"dt", "dd"},
    "option": {"option"},
    "tr": {"tr", "td", "th"},
    "td": {"td", "th"},
    "th": {"td", "th"},
}
"""The elements whose end tag may be left out before the next one of a name."""
_FORMATS = frozenset(["a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"])
_BARRIERS = frozenset(["applet", "caption", "marquee", "object", "table", "td", "template", "th"])
"""Formatting from outside is not closed inside of these."""
_EQUAL_FORMATS = 3
"""Of the equal formatting tags that are open, a parser repeats three."""
_SEARCHED = 64
_FEW_TAGS, _FEW_CHARS = 300, 2_500
"""Texts with fewer stay below `FREE_WORK` whatever their tags are."""


def is_tangled(text: str) -> bool:
    """Whether parsing takes more than `WORK_PER_CHAR` per character and `FREE_WORK`."""
    if len(text) <= _FEW_CHARS or (text.count("<") <= _FEW_TAGS and not _has_long_tag(text)):
        return False
    budget, work, opened = WORK_PER_CHAR * len(text) + FREE_WORK, 0, _Open()
    for tag in _ANY_TAG.finditer(text):
        name = tag["name"].lower()
        if tag["close"]:
            opened.close(name)
        elif name not in _VOID:
            opened.open(name, tag["rest"])
        num_attributes = len(_SEPARATOR.findall(_QUOTED.sub(" ", tag["rest"]))) if len(tag["rest"]) > 1000 else 0
        work += len(opened.elements) + _WORK_PER_FORMAT * len(opened.formats) + num_attributes**2 // 2
        if work > budget:
            return True
    return False


def _has_long_tag(text: str) -> bool:
    """Whether a `<` is further than that from the next."""
    return any(len(piece) > _FEW_CHARS for piece in text.split("<")[1:])


class _Open:
    """Elements and formatting that are open, at least as many as a parser has."""

    def __init__(self) -> None:
        self.elements: list[str] = []
        self.formats: list[tuple[str, str, int]] = []
        """Name, attributes, and the number of barriers around it."""
        self._num_barriers = 0

    def open(self, name: str, rest: str) -> None:
        if name in _FORMATS:
            entry = (name, rest, self._num_barriers)
            if self.formats[-_SEARCHED:].count(entry) < _EQUAL_FORMATS:
                self.formats.append(entry)
            return
        while self.elements and self.elements[-1] in _ENDS.get(name, ()):
            self._pop()
        self.elements.append(name)
        self._num_barriers += name in _BARRIERS

    def close(self, name: str) -> None:
        if name in _FORMATS:
            for index in range(len(self.formats) - 1, max(-1, len(self.formats) - 1 - _SEARCHED), -1):
                if self.formats[index][0] == name and self.formats[index][2] == self._num_barriers:
                    del self.formats[index]
                    return
        elif name in self.elements[-_SEARCHED:]:
            while self._pop() != name:
                pass

    def _pop(self) -> str:
        name = self.elements.pop()
        if name in _BARRIERS:
            self._num_barriers -= 1
            while self.formats and self.formats[-1][2] > self._num_barriers:
                self.formats.pop()
        return name
