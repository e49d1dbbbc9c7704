"""Remove from a document what nobody would read aloud: HTML, code, tables, URLs.

In: text of the web. Out: the text without them, and which of the four were found. `<...>` counts as a tag only if its
name is one of HTML's, so `x<y and y>z` stays; a document with tags is parsed (selectolax's Lexbor, a parser with the
rules of browsers; trafilatura, which is made to find the article in a whole page, drops most of a fragment). Code is
what is between Markdown fences, in <code> or <pre>, or at least three consecutive lines that look like code; a table is
at least two consecutive lines with two or more bars or tabs. Text without `<`, `&`, fences, bars, tabs and dots before
letters costs one search each.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable

import regex
from selectolax.lexbor import LexborHTMLParser

from titan_speech.importers.markup_work import is_tangled

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
