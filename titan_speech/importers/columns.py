"""Which column of an input holds each field of a speech sample.

In: `--columns FIELD=COLUMN`, the defaults of the format, and the input's columns where it states them. Out: for each
field the columns to look in. A column named by the user is the only one looked in; otherwise the column with the
field's own name comes first, then the format's default, then for the native transcript the usual names of published
data sets (`TEXT_COLUMNS`, the first one found). `sample_id=@row` numbers the samples of each unit; a transcript field
of `@none` is read from nowhere.

A column that the user named and that does not exist is an error, never an empty field. So is a column that looks like
one of transcripts in an input of which no transcript is read: its samples would be speech without text, unnoticed.
Names decide (`utterance_words`, `normalizedText`) and the first values, since a transcript may be called `label`; where
they mislead, `transcript_native=@none` is the way out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches

from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions
from titan_speech.store.sample import SPEECH_VARIANTS, TRANSCRIPT_VARIANTS, SampleInfo

CODES, CODE_LEN = "codes", "code_len"
TRANSCRIPTS = {f"transcript_{variant}": variant for variant in SPEECH_VARIANTS}
SPEECH_FIELDS = (*(each.name for each in fields(SampleInfo)), CODES, CODE_LEN, *TRANSCRIPTS)
ROW, NO_COLUMN = "@row", "@none"
SAMPLE_KEY = "__key__"
"""Column of the name that a sample has by its files."""
TEXT_COLUMNS = ("text", "normalized_text", "transcription", "transcript", "sentence", "raw_text")
"""Usual names of the column with the transcript, in the order in which they are tried for `transcript_native`."""
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_TEXT_WORDS = tuple(
    ["text", "txt", "transcri", "sentence", "utter", "caption", "spoken", "phrase", "word", "orthograph", "subtitle"]
)
_NOT_TEXT = """
    id ids idx index key len length lang language locale path file hash score count num type source format norm version
    tokens time start end duration
""".split()  # noqa: SIM905
"""Last words of names such as text_len and sentence_id."""
_FILE_NAME = re.compile(r".*\.\w{2,5}", re.S)
PROBED = 16
"""Records whose values are looked at, where an input does not have all of them at hand."""
_MAX_LISTED = 20
_MAX_LAYOUTS = 1000


@dataclass(frozen=True)
class Columns:
    """The columns to look in for each field, first to last."""

    candidates: Mapping[str, tuple[str, ...]]
    named: Mapping[str, str]
    """Field to column, as the user named them; each column must occur somewhere in the input."""
    decided: frozenset[str] = frozenset()
    """Fields the user said something about, `@none` included."""
    _located: dict[tuple[str, ...], Mapping[str, str]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    def of(self, field: str, available: Collection[str]) -> str | None:
        for column in self.candidates[field]:  # a loop: this runs 17 times per sample
            if column in available:
                return column
        return None

    def locate(self, record: Collection[str]) -> Mapping[str, str]:
        """The column of each field a record has, computed once for all records with the same columns."""
        names = tuple(record)
        if names not in self._located:
            if len(self._located) >= _MAX_LAYOUTS:
                self._located.clear()
            found = {name: self.of(name, record) for name in self.candidates}
            self._located[names] = {name: column for name, column in found.items() if column is not None}
        return self._located[names]

    def used(self, available: Collection[str]) -> set[str]:
        """The columns that hold any field; the others need not be read."""
        return {column for field in self.candidates if (column := self.of(field, available)) is not None}

    def check_all(self, available: Collection[str], required: Collection[str], where: str) -> None:
        """For inputs whose columns are known before their rows are read.

        Raises:
            DataError: a column the user named, or every column of a required field, is absent.
        """
        for field, column in self.named.items():
            if column not in available and column != ROW:
                raise DataError(f"{where} {missing_column(field, column, available)}")
        for field in required:
            if not any(column in available or column == ROW for column in self.candidates[field]):
                raise DataError(f"{where} {missing_field(field, self.candidates[field], available)}")

    def decides_transcripts(self, available: Collection[str]) -> bool:
        """Whether a transcript is read from these columns, or the user has said that none is."""
        spoken = (f"transcript_{variant}" for variant in TRANSCRIPT_VARIANTS)
        return any(field in self.decided or self.of(field, available) for field in spoken)

    def check_transcripts(
        self, available: Collection[str], where: str, values_of: Callable[[str], Sequence[object]]
    ) -> None:
        """Refuse an input with columns that look like transcripts, of which no transcript would be read.

        Args:
            available: columns of an input, or of its first records.
            where: the input, for the message.
            values_of: values of a column, of all records or of the first ones; asked only where its name says nothing.

        Raises:
            DataError: there are such columns, no transcript is read, and the user has not decided about any.
        """
        if self.decides_transcripts(available):
            return
        used = self.used(available)
        unread = [name for name in available if name not in used]
        found = [name for name in unread if is_text_like(name) or holds_sentences(values_of(name))]
        if found:
            flag = f"--columns transcript_native={found[0]}"
            raise DataError(
                f"{where} has no {' or '.join(TEXT_COLUMNS)}, and {', '.join(found[:_MAX_LISTED])} would not be read: "
                f"name the column of the transcripts with {flag}, or build speech without them with --columns "
                f"transcript_native={NO_COLUMN}"
            )


def is_text_like(column: str) -> bool:
    """Whether a column is named like one of transcripts, and not like a property of them."""
    words = [word.lower() for word in _WORDS.findall(column)]
    if not words or words[-1] in _NOT_TEXT:
        return False
    return any(word.startswith(_TEXT_WORDS) or word.endswith("text") for word in words if word != "context")


def holds_sentences(values: Sequence[object]) -> bool:
    """Whether most records have words of their own in a column: a transcript, whatever its name, but not a speaker."""
    texts = [value for value in values if isinstance(value, str)]
    several = (text for text in texts if len(text.split()) > 1 or (len(text) > 8 and not text.isascii()))
    sentences = {text for text in several if not _FILE_NAME.fullmatch(text)}
    return 2 * len(sentences) > len(values) > 1


def speech_columns(options: ImportOptions, defaults: Mapping[str, str] | None = None) -> Columns:
    """The columns of the fields of speech.

    Args:
        options: with the columns the user named.
        defaults: field to column, as the format names it.

    Raises:
        DataError: --columns names something that is not a field.
    """
    for field in options.columns:
        if field not in SPEECH_FIELDS:
            near = get_close_matches(field, SPEECH_FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"--columns names the field {field!r}: expected one of {', '.join(SPEECH_FIELDS)}{hint}")
    rows = [field for field, column in options.columns.items() if column == ROW and field != "sample_id"]
    if rows:
        raise DataError(f"--columns {rows[0]}={ROW}: only sample_id can be the number of the row")
    absent = [field for field, column in options.columns.items() if column == NO_COLUMN]
    if wrong := [field for field in absent if field not in TRANSCRIPTS]:
        raise DataError(
            f"--columns {wrong[0]}={NO_COLUMN}: only transcripts can be left out ({', '.join(TRANSCRIPTS)})"
        )
    named = {field: column for field, column in options.columns.items() if column != NO_COLUMN}
    candidates: dict[str, tuple[str, ...]] = {}
    for field in SPEECH_FIELDS:
        default = (defaults or {}).get(field)
        candidates[field] = (field, default) if default else (field,)
        if field == "transcript_native":
            usual = (column for column in TEXT_COLUMNS if column != default and column not in named.values())
            candidates[field] += tuple(usual)
        if field in options.columns:
            candidates[field] = (named[field],) if field in named else ()
    return Columns(candidates, named, frozenset(options.columns))


def required_fields(options: ImportOptions) -> list[str]:
    """Fields every sample must have; what an option gives to all samples need not be in the input."""
    given = {"language": options.language, "dataset_source": options.dataset_source}
    return [field for field in ("sample_id", CODES, "language", "dataset_source") if not given.get(field)]


def missing_column(field: str, column: str, available: Collection[str]) -> str:
    """The end of a sentence about a named column that does not exist."""
    near = get_close_matches(column, list(available), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"has no column {column!r}, named for {field}; found {_listed(available)}{hint}"


def missing_field(field: str, candidates: Collection[str], available: Collection[str]) -> str:
    """The end of a sentence about a field that no column holds."""
    near = get_close_matches(field, list(available), n=1) or [name for name in available if name.lower() in field]
    looked = " or ".join(repr(column) for column in candidates)
    ways = [f"name its column with --columns {field}={near[0] if near else 'COLUMN'}"]
    if field in ("language", "dataset_source"):
        ways.append(f"give it to all samples with --{field.replace('_', '-')}")
    if field == "sample_id":
        ways.append("number the samples by file and row with --columns sample_id=@row")
    return f"has no {looked} for {field}; found {_listed(available)}. {ways[0][0].upper()}{' or '.join(ways)[1:]}"


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_LISTED]) or "none"
    return shown if len(names) <= _MAX_LISTED else f"{shown} and {len(names) - _MAX_LISTED} more"
