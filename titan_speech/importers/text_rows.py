"""Taking out of a document what nobody would read aloud: HTML, code, tables, URLs.

In: text of the web. Out: text without them, and which of the four were met. A tag is one only if its name is HTML's, so
`x<y and y>z` stays; where there are tags, the document is parsed (selectolax's Lexbor, the parser with browser rules;
trafilatura, made to find the article in a whole page, drops most of a fragment). Code is what stands between Markdown
fences, in <code> or <pre>, or three lines on end that look like code; a table is two lines on end with two or more
bars or tabs. Text without `<`, `&`, fences, bars, tabs and dots before letters costs one look each.

From a row of an input to a document, the same way for every format.

In: field -> value, as the input has it. Out: `Document`. Values of a wrong type are `UnfitError`s; a missing text is
an empty one. The language is, in this order: the row's, its metadata's, the preset's, the one in the path, the
one of the command line (`auto`: identified document by document); none of them is an error.

What all text formats share: rows become documents, documents become samples.

In: a format's `units` and `rows`. Out: `documents` for `text prepare`, which ends a unit at its first bad row, and
`samples` for a build, which counts bad rows. A source that needs its quality signals is not built from directly, since
nothing would hold rules against them.
"""

from __future__ import annotations

import html
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import regex
from selectolax.lexbor import LexborHTMLParser

from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, ImportOptions, Sample, Unit
from titan_speech.importers.columns import UnfitError
from titan_speech.importers.language_id import identify, letter_share
from titan_speech.importers.registry import Preset, find_preset
from titan_speech.importers.text import UNKNOWN_LICENCE, TextDocument
from titan_speech.store.sample import Problem, is_language
from titan_speech.tokenization.normalize import normalize, tag_of_path, to_tag

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

_TAG = regex.compile(rf"</?(?:{TAGS})(?:\s[^<>]*)?/?>|<!--|<!doctype", flags=regex.IGNORECASE)
_ENTITY = regex.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8});", flags=regex.IGNORECASE)
_FENCE = regex.compile(r"^[ \t]*(```|~~~)[^\n]*\n.*?(?:^[ \t]*\1[ \t]*$|\Z)", flags=regex.MULTILINE | regex.DOTALL)
_URL = regex.compile(
    r"(?:https?|ftp)://[^\s<>\"'()\[\]।]+|\bwww\.[^\s<>\"'()\[\]।]+|\b[\w.+-]+@[\w-]+\.[\w.-]*\w"
    r"|\b(?:[a-z0-9-]+\.)+(?:com|org|net|edu|gov)\b(?:/[^\s<>\"'()\[\]।]*)?",
    flags=regex.IGNORECASE,
)
_MARKDOWN_LINK = regex.compile(r"!?\[([^\[\]\n]*)\]\((?:https?://|www\.|/|#)[^()\s]*(?:\s\"[^\"\n]*\")?\)")
_CODE_LINE = regex.compile(
    r"^\s*(?:[{}\])]+[;,]?|.*[;{]|//.*|#include.*|(?:def|class|import|from|return|function|var|let|const|public|private|"
    r"static|if|for|while|else|elif|try|except|print)\b.*[=(){}\[\]:;].*|[\w.\[\]]+\s*[+\-*]?=\s*[^=\s].*[\w\])\"';]|"
    r"[\w.]+\(.*\)[;:]?)\s*$"
)
_CODE_MARKS = regex.compile(r"[=(){}\[\];]")
_BREAK = "\ue000"
URL_MARKS = ("://", "www.", "@", ".com", ".org", ".net", ".edu", ".gov")
MIN_CODE_LINES, MIN_TABLE_LINES = 3, 2


def strip_markup(text: str) -> tuple[str, set[str]]:
    """The text without markup, and the kinds that were taken out."""
    found: set[str] = set()
    if "```" in text or "~~~" in text:
        text = _replaced(_FENCE, "\n", text, "code", found)
    if "&" in text and _ENTITY.search(text) and not _TAG.search(text):
        text = html.unescape(text)
        found.add("html")
    if "<" in text and _TAG.search(text):
        text = _without_html(text, found)
    text = _without_runs(text, _is_table_line, MIN_TABLE_LINES, "table", found)
    text = _without_runs(text, _is_code_line, MIN_CODE_LINES, "code", found)
    if "](" in text:
        text = _replaced(_MARKDOWN_LINK, r"\1", text, "url", found)
    if any(mark in text for mark in URL_MARKS):
        text = _replaced(_URL, " ", text, "url", found)
    return text, found


def _replaced(pattern: regex.Pattern[str], by: str, text: str, kind: str, found: set[str]) -> str:
    text, count = pattern.subn(by, text)
    if count:
        found.add(kind)
    return text


def _without_html(text: str, found: set[str]) -> str:
    found.add("html")
    tree = LexborHTMLParser(text.replace("\n", _BREAK))
    for kind, tags in (("code", CODE_TAGS), ("table", TABLE_TAGS)):
        if tree.css_first(",".join(tags)) is not None:
            found.add(kind)
    tree.strip_tags([*DROPPED_TAGS, *CODE_TAGS, *TABLE_TAGS])
    for node in tree.css(BLOCK_TAGS):
        node.insert_before("\n")
        node.insert_after("\n")
    body = tree.body
    return (body.text() if body is not None else "").replace(_BREAK, "\n")


def _is_table_line(line: str) -> bool:
    return line.count("|") >= 2 or line.count("\t") >= 2


def _is_code_line(line: str) -> bool:
    return bool(_CODE_MARKS.search(line)) and line.isascii() and bool(_CODE_LINE.match(line))


def _without_runs(text: str, matches: Callable[[str], bool], min_lines: int, kind: str, found: set[str]) -> str:
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


AUTO = "auto"
"""As `--language`: each document is in the language it is taken for."""

UNDETERMINED = "und"
MAX_CHARS_TO_IDENTIFY = 4000

_SOURCE = regex.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TURN = regex.compile(r"\s*<(human|bot)>:\s*")


@dataclass(frozen=True)
class RowReader:
    """Reads rows of one source."""

    options: ImportOptions
    preset: Preset | None

    def document(self, row: Mapping[str, object], unit: Unit, position: int) -> TextDocument:
        user, text = self._texts(row)
        said = _text(row, "dataset_source") or self.options.dataset_source or self._preset_source()
        source = _checked_source(said)
        licence = _text(row, "licence") or (self.preset.licence if self.preset else UNKNOWN_LICENCE)
        return TextDocument(
            id=_text(row, "sample_id") or f"{source}/{unit.name}/{position}",
            text=text,
            user=user,
            language=self._language(row, unit, text),
            source=source,
            licence=licence,
            signals=self._signals(row),
            position=position,
        )

    def _preset_source(self) -> str:
        if self.preset is None:
            raise UnfitError("no source", "nothing says which source this is; name it with --dataset-source")
        return self.preset.source

    def _texts(self, row: Mapping[str, object]) -> tuple[str | None, str]:
        if "dialogue" in row:
            return split_dialogue(_text(row, "dialogue"))
        return (_text(row, "user") or None), _text(row, "text")

    def _language(self, row: Mapping[str, object], unit: Unit, text: str) -> str:
        said = _text(row, "language") or _language_of_meta(row)
        if not said and self.preset is not None:
            said = self.preset.language or (self.preset.language_in_path and tag_of_path(unit.path)) or ""
        said = said or self.options.language or ""
        if not said:
            hint = " nor in its path" if self.preset and self.preset.language_in_path else ""
            detail = f"names no language{hint}; say it with --language TAG (or auto), or --columns language=NAME"
            raise UnfitError("no language", detail)
        tag = identified(text) if said == AUTO else to_tag(said)
        if not is_language(tag):
            detail = f"unknown language tag {said!r}; expected BCP 47 or ISO 639-3, as 'hi' or 'hin'"
            raise UnfitError("language", detail)
        return tag

    def _signals(self, row: Mapping[str, object]) -> dict[str, float] | None:
        if "quality_signals" not in row:
            return None
        value = row["quality_signals"]
        try:
            content = json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise UnfitError("quality signals", f"quality_signals is not JSON: {error}") from error
        if not isinstance(content, Mapping) or not content:
            detail = f"has no quality signals: found {value!r:.80}, expected name -> [[0, n, value]]"
            raise UnfitError("no quality signals", detail)
        return {
            str(name): float(number) for name, spans in content.items() if (number := _of_document(spans)) is not None
        }


def identified(text: str) -> str:
    """The language a document is taken for once its markup is gone; `und` where there are no letters."""
    plain = normalize(strip_markup(text[:MAX_CHARS_TO_IDENTIFY])[0], UNDETERMINED)
    return identify(plain) if letter_share(plain) else UNDETERMINED


def _checked_source(name: str) -> str:
    if not _SOURCE.fullmatch(name):
        raise UnfitError("source", f"dataset_source {name!r}; expected letters, digits, '-' and '_'")
    return name


def split_dialogue(text: str) -> tuple[str | None, str]:
    """All turns before the last answer, and that answer; without turns all is the text."""
    pieces = _TURN.split(text)
    turns = [
        (who, said.strip()) for who, said in zip(["lead", *pieces[1::2]], pieces[::2], strict=True) if said.strip()
    ]
    while turns and turns[-1][0] == "human":
        turns.pop()
    if not turns or turns[-1][0] != "bot":
        return None, text.strip() if len(pieces) == 1 else ""
    return "\n\n".join(said for _, said in turns[:-1]) or None, turns[-1][1]


def _language_of_meta(row: Mapping[str, object]) -> str:
    value = row.get("meta")
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UnfitError("meta", f"meta is not JSON: {error}") from error
    language = content.get("language") if isinstance(content, Mapping) else None
    return language if isinstance(language, str) else ""


def _of_document(spans: object) -> float | None:
    """The value of a signal that has one for the whole document; None of one with a value a line."""
    if isinstance(spans, (int, float)):
        return float(spans)
    if isinstance(spans, list) and len(spans) == 1 and isinstance(spans[0], list) and len(spans[0]) == 3:
        value = spans[0][2]
        return float(value) if isinstance(value, (int, float)) else None
    return None


def _text(row: Mapping[str, object], field: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, int) and field == "sample_id":
        return str(value)
    if not isinstance(value, str):
        raise UnfitError(f"type of {field}", f"{field} is {type(value).__name__} {value!r:.80}; expected text")
    return value


@dataclass(frozen=True)
class _Unfit:
    """A row of which no document can be made."""

    name: str
    position: int
    problem: Problem


class TextImporter(ABC):
    """A format whose samples are documents; picklable."""

    def __init__(self, options: ImportOptions) -> None:
        self.options = options
        self.preset = find_preset(options.preset)

    @abstractmethod
    def units(self) -> list[Unit]:
        """All units, in an order that depends on the inputs alone."""

    @abstractmethod
    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object] | Problem]]:
        """Position in the file and the fields of each row, or why it has none."""

    def documents(self, unit: Unit) -> Iterator[TextDocument]:
        for document in self._read(unit):
            if isinstance(document, _Unfit):
                raise DataError(f"{self.where(unit, document.position)}: {document.problem.detail}")
            yield document

    def where(self, unit: Unit, position: int) -> str:
        """A document's place, for messages."""
        return f"{unit.path}, row {position}"

    def row_of(self, position: int) -> int | None:
        """Of its file, from 0."""
        return position

    def samples(self, unit: Unit) -> Iterator[Sample]:
        if self.preset is not None and self.preset.needs_signals:
            raise DataError(
                f"{self.preset.source} is unfiltered: run `titan-speech text prepare` on it, which holds rules against "
                "its quality signals, and build --from text-prepared"
            )
        for document in self._read(unit):
            row = self.row_of(document.position)
            if isinstance(document, _Unfit):
                yield BadSample(document.name, document.problem, row)
            else:
                yield replace(document.sample(), row=row)

    def _read(self, unit: Unit) -> Iterator[TextDocument | _Unfit]:
        reader = RowReader(self.options, self.preset)
        for position, row in self.rows(unit):
            if isinstance(row, Problem):
                yield _Unfit(f"{unit.name}:{position}", position, row)
                continue
            try:
                yield reader.document(row, unit, position)
            except UnfitError as error:
                yield _Unfit(str(row.get("sample_id") or f"{unit.name}:{position}"), position, error.problem)
