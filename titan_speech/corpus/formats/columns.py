"""Which column of an input holds each field of a sample.

In: `--columns FIELD=COLUMN`, the defaults of the format, and the columns there are, where the input states them. Out:
for each field the columns to look in, in this order: the one named by the user and no other; otherwise the one called
as the field; otherwise the format's default. `FIELD=@row` for `sample_id` numbers the samples of each unit.

A named column that is nowhere to be found is an error, never a field left empty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches

from titan_speech.corpus.format import ImportOptions
from titan_speech.errors import DataError
from titan_speech.store.samples import SPEECH_VARIANTS, SampleInfo

CODES, CODE_LEN = "codes", "code_len"
TRANSCRIPTS = {f"transcript_{variant}": variant for variant in SPEECH_VARIANTS}
INFO_FIELDS = tuple(each.name for each in fields(SampleInfo))
SPEECH_FIELDS = (*INFO_FIELDS, CODES, CODE_LEN, *TRANSCRIPTS)
ROW = "@row"
_MAX_LISTED = 20
_MAX_LAYOUTS = 1000


@dataclass(frozen=True)
class Columns:
    """Columns to look in for each field, first to last."""

    candidates: Mapping[str, tuple[str, ...]]
    named: Mapping[str, str]
    """What the user named; each must be met somewhere."""
    _located: dict[tuple[str, ...], Mapping[str, str]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    def of(self, field: str, available: Collection[str]) -> str | None:
        for column in self.candidates[field]:  # a loop: this runs 17 times a sample
            if column in available:
                return column
        return None

    def locate(self, record: Collection[str]) -> Mapping[str, str]:
        """The column of each field that a record has; worked out once for all records of the same columns."""
        names = tuple(record)
        if names not in self._located:
            if len(self._located) >= _MAX_LAYOUTS:
                self._located.clear()
            found = {name: self.of(name, record) for name in self.candidates}
            self._located[names] = {name: column for name, column in found.items() if column is not None}
        return self._located[names]

    def check_all(self, available: Collection[str], required: Collection[str], where: str) -> None:
        """For inputs whose columns are known before their rows are read."""
        for field, column in self.named.items():
            if column not in available and column != ROW:
                raise DataError(f"{where} {missing(field, column, available)}")
        for field in required:
            if not any(column in available or column == ROW for column in self.candidates[field]):
                raise DataError(f"{where} {absent(field, self.candidates[field], available)}")


def speech_columns(options: ImportOptions, defaults: Mapping[str, str] | None = None) -> Columns:
    """Fields of speech; a name that is no field is refused."""
    for field in options.columns:
        if field not in SPEECH_FIELDS:
            near = get_close_matches(field, SPEECH_FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"--columns names the field {field!r}: expected one of {', '.join(SPEECH_FIELDS)}{hint}")
    rows = [field for field, column in options.columns.items() if column == ROW and field != "sample_id"]
    if rows:
        raise DataError(f"--columns {rows[0]}={ROW}: only sample_id can be the number of the row")
    candidates = {}
    for field in SPEECH_FIELDS:
        default = (defaults or {}).get(field)
        candidates[field] = (field, default) if default else (field,)
        if field in options.columns:
            candidates[field] = (options.columns[field],)
    return Columns(candidates, dict(options.columns))


def required_fields(options: ImportOptions) -> list[str]:
    """Fields each sample must have; what an option gives to all samples need not be in the input."""
    given = {"language": options.language, "dataset_source": options.dataset_source}
    return [field for field in ("sample_id", CODES, "language", "dataset_source") if not given.get(field)]


def missing(field: str, column: str, available: Collection[str]) -> str:
    """The end of a sentence about a named column that is not there."""
    near = get_close_matches(column, list(available), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"has no column {column!r}, named for {field}; found {_listed(available)}{hint}"


def absent(field: str, candidates: Collection[str], available: Collection[str]) -> str:
    """The end of a sentence about a field that no column holds."""
    near = get_close_matches(field, list(available), n=1) or [name for name in available if name.lower() in field]
    looked = " or ".join(repr(column) for column in candidates)
    ways = [f"name its column with --columns {field}={near[0] if near else 'COLUMN'}"]
    if field in ("language", "dataset_source"):
        ways.append(f"give it to all samples with --{'source' if field == 'dataset_source' else 'language'}")
    if field == "sample_id":
        ways.append("number the samples by file and row with --columns sample_id=@row")
    return f"has no {looked} for {field}; found {_listed(available)}. {ways[0][0].upper()}{' or '.join(ways)[1:]}"


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_LISTED]) or "none"
    return shown if len(names) <= _MAX_LISTED else f"{shown} and {len(names) - _MAX_LISTED} more"
