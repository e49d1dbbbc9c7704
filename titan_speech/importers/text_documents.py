"""From rows of a text input to documents and samples, the same way for every format.

In: the units and rows of a format (text_files.py), with the preset (registry.py) and what the command line says. Out:
`TextDocument`s for `text prepare`, which ends a unit at its first bad row, and `TextSample`s for a build, which counts
bad rows. The command line takes precedence over the preset, and fields that neither names are looked up by their own
name. A document without text has an empty string: whether that is an error (a build) or a count in a report (`text
prepare`) is not decided here.

The language of a document is, in this order: the row's, its metadata's, the preset's, the one in the path, the
one of the command line (`auto`: identified per document); a document with none of them is an error. A source that
needs its quality signals cannot be built from directly, since no rules would be applied to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

import regex

from titan_speech.errors import DataError
from titan_speech.importers.base import BadRecordError, BadSample, ImportOptions, Sample, TextSample, Unit
from titan_speech.importers.language_id import identify, letter_share
from titan_speech.importers.limits import check_document_length
from titan_speech.importers.markup import strip_markup
from titan_speech.importers.registry import Preset, find_preset
from titan_speech.store.problems import Problem
from titan_speech.store.sample import SampleInfo, is_language
from titan_speech.tokenization.languages import tag_of_path, to_tag
from titan_speech.tokenization.normalize import normalize
from titan_speech.utils.json_text import parse_json

FIELDS = ("sample_id", "text", "user", "language", "dataset_source", "licence", "quality_signals", "dialogue", "meta")
"""What a column may hold: `dialogue` is text with <human>: and <bot>: turns; `meta` an object that may name a
language."""
UNKNOWN_LICENCE = "not stated"
AUTO_LANGUAGE = "auto"
"""As `--language`: the language of each document is identified."""
UNDETERMINED = "und"
MAX_CHARS_TO_IDENTIFY = 4000

_SOURCE = regex.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TURN = regex.compile(r"\s*<(human|bot)>:\s*")


@dataclass(frozen=True, kw_only=True)
class TextDocument:
    """Text with its origin; with `user` an instruction whose answer is `text`."""

    id: str
    text: str
    language: str
    source: str
    licence: str = UNKNOWN_LICENCE
    user: str | None = None
    signals: Mapping[str, float] | None = None
    """Quality measures of the whole document that its source computed."""
    position: int = 0
    """In the unit's file, counted as the format does: rows from 0, lines from 1."""

    @property
    def all_text(self) -> str:
        return self.text if self.user is None else f"{self.user}\n{self.text}"

    def sample(self) -> TextSample:
        info = SampleInfo(sample_id=self.id, dataset_source=self.source, language=self.language)
        return TextSample(info, self.text, self.user)


class TextImporter(ABC):
    """An importer whose samples are documents; picklable."""

    def __init__(self, options: ImportOptions) -> None:
        self.options = options
        self.preset = find_preset(options.preset)

    @abstractmethod
    def units(self) -> list[Unit]:
        """All units, in an order that depends on the inputs alone."""

    @abstractmethod
    def rows(self, unit: Unit) -> Iterator[tuple[int, Mapping[str, object] | Problem]]:
        """Position in the file, and the fields of each row or why it has none."""

    def documents(self, unit: Unit) -> Iterator[TextDocument]:
        """The documents of a unit.

        Raises:
            DataError: at the first row that does not make one.
        """
        for position, found in self._read(unit):
            if isinstance(found, BadSample):
                raise DataError(f"{self.where(unit, position)}: {found.problem.detail}")
            yield found

    def where(self, unit: Unit, position: int) -> str:
        """Where a document is, for messages."""
        return f"{unit.path}, row {position}"

    def row_of(self, position: int) -> int | None:
        """The row in its file, from 0, for formats that have rows."""
        return position

    def samples(self, unit: Unit) -> Iterator[Sample]:
        if self.preset is not None and self.preset.needs_signals:
            raise DataError(
                f"{self.preset.source} is unfiltered: run `titan-speech text prepare` on it, which applies rules to "
                "its quality signals, and build --from text-prepared"
            )
        for position, found in self._read(unit):
            sample = found if isinstance(found, BadSample) else found.sample()
            yield replace(sample, row=self.row_of(position))

    def _read(self, unit: Unit) -> Iterator[tuple[int, TextDocument | BadSample]]:
        """The document of each row, and its position in the unit's file."""
        for position, row in self.rows(unit):
            if isinstance(row, Problem):
                yield position, BadSample(f"{unit.name}:{position}", row)
                continue
            try:
                yield position, self._document(row, unit, position)
            except BadRecordError as error:
                name = str(row.get("sample_id") or f"{unit.name}:{position}")
                yield position, BadSample(name, error.problem)

    def _document(self, row: Mapping[str, object], unit: Unit, position: int) -> TextDocument:
        """The document of a row, which is field to value; raises `BadRecordError` for values of a wrong type."""
        if "dialogue" in row:
            user, text = split_dialogue(_text(row, "dialogue"))
        else:
            user, text = (_text(row, "user") or None), _text(row, "text")
        if problem := check_document_length(len(text) + len(user or "")):
            raise BadRecordError(problem.kind, problem.detail)
        source = self._source(row)
        licence = _text(row, "licence") or (self.preset.licence if self.preset else UNKNOWN_LICENCE)
        return TextDocument(
            id=_text(row, "sample_id") or f"{source}/{unit.name}/{position}",
            text=text,
            user=user,
            language=self._language(row, unit, text),
            source=source,
            licence=licence,
            signals=_quality_signals(row),
            position=position,
        )

    def _source(self, row: Mapping[str, object]) -> str:
        source = _text(row, "dataset_source") or self.options.dataset_source
        if not source:
            if self.preset is None:
                raise BadRecordError("no source", "nothing says which source this is; name it with --dataset-source")
            source = self.preset.source
        if not _SOURCE.fullmatch(source):
            raise BadRecordError("source", f"dataset_source {source!r}; expected letters, digits, '-' and '_'")
        return source

    def _language(self, row: Mapping[str, object], unit: Unit, text: str) -> str:
        stated = _text(row, "language") or _language_in_meta(row)
        if not stated and self.preset is not None:
            stated = self.preset.language or (self.preset.language_in_path and tag_of_path(unit.path)) or ""
        stated = stated or self.options.language or ""
        if not stated:
            hint = " nor in its path" if self.preset and self.preset.language_in_path else ""
            detail = f"names no language{hint}; say it with --language TAG (or auto), or --columns language=NAME"
            raise BadRecordError("no language", detail)
        tag = identify_language(text) if stated == AUTO_LANGUAGE else to_tag(stated)
        if not is_language(tag):
            detail = f"unknown language tag {stated!r}; expected BCP 47 or ISO 639-3, as 'hi' or 'hin'"
            raise BadRecordError("language", detail)
        return tag


def resolve_columns(
    found: Iterable[str], named: Mapping[str, str], preset: Preset | None, where: str
) -> dict[str, str]:
    """The column of each field that the input has.

    Args:
        found: columns of the input.
        named: field to column, from the command line; takes precedence over the preset.
        where: the input, for messages.

    Raises:
        DataError: a named column or the text does not exist; says what was found and the nearest name.
    """
    names = list(found)
    unknown = [field for field in named if field not in FIELDS]
    if unknown:
        raise DataError(f"column for unknown field {unknown[0]!r}; fields of text are {', '.join(FIELDS)}")
    asked = {**(preset.columns if preset else {}), **named}
    columns = asked | {name: name for name in FIELDS if name in names and name not in asked}
    missing = []
    for field, column in asked.items():
        if column not in names and field != "meta":  # `meta` only helps to find the language
            near = get_close_matches(column, names, n=1, cutoff=0.5)
            hint = f" (nearest is {near[0]!r})" if near else ""
            missing.append(f"no column {column!r} for {field}{hint}")
    if missing:
        raise DataError(f"{where}: {'; '.join(missing)}; found {', '.join(names) or 'no columns'}")
    columns = {field: column for field, column in columns.items() if column in names}
    if not {"text", "dialogue"} & set(columns):
        raise DataError(f"{where} has no column `text`; found {', '.join(names)}: name it with --columns text=NAME")
    return columns


def identify_language(text: str) -> str:
    """The language of a document without its markup; `und` for text without letters."""
    plain = normalize(strip_markup(text[:MAX_CHARS_TO_IDENTIFY])[0], UNDETERMINED)
    return identify(plain) if letter_share(plain) else UNDETERMINED


def split_dialogue(text: str) -> tuple[str | None, str]:
    """All turns before the last answer, and that answer; text without turns is all answer."""
    pieces = _TURN.split(text)
    turns = [
        (who, words.strip()) for who, words in zip(["lead", *pieces[1::2]], pieces[::2], strict=True) if words.strip()
    ]
    while turns and turns[-1][0] == "human":
        turns.pop()
    if not turns or turns[-1][0] != "bot":
        return None, text.strip() if len(pieces) == 1 else ""
    return "\n\n".join(words for _, words in turns[:-1]) or None, turns[-1][1]


def _parsed(row: Mapping[str, object], field: str, kind: str) -> object:
    """The value of a field, read as JSON where it is text."""
    value = row.get(field)
    try:
        return parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadRecordError(kind, f"{field} is not JSON: {error}") from error


def _language_in_meta(row: Mapping[str, object]) -> str:
    content = _parsed(row, "meta", "meta")
    language = content.get("language") if isinstance(content, Mapping) else None
    return language if isinstance(language, str) else ""


def _quality_signals(row: Mapping[str, object]) -> dict[str, float] | None:
    if "quality_signals" not in row:
        return None
    content = _parsed(row, "quality_signals", "quality signals")
    if not isinstance(content, Mapping) or not content:
        detail = f"has no quality signals: found {row['quality_signals']!r:.80}, expected name -> [[0, n, value]]"
        raise BadRecordError("no quality signals", detail)
    numbers = {str(name): _document_signal(spans) for name, spans in content.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _document_signal(spans: object) -> float | None:
    """A signal's value for the whole document; None for a signal with one value per line."""
    if isinstance(spans, (int, float)):
        return float(spans)
    if isinstance(spans, list) and len(spans) == 1 and isinstance(spans[0], list) and len(spans[0]) == 3:
        value = spans[0][2]
        return float(value) if isinstance(value, (int, float)) else None
    return None


def _text(row: Mapping[str, object], field: str) -> str:
    """The text of a field; empty if the row has none."""
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, int) and field == "sample_id":
        return str(value)
    if not isinstance(value, str):
        raise BadRecordError(f"type of {field}", f"{field} is {type(value).__name__} {value!r:.80}; expected text")
    return value
