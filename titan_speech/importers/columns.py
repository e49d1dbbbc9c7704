"""Which column of an input holds each field of a sample.

In: `--columns FIELD=COLUMN`, the defaults of the format, and the columns there are, where the input states them. Out:
for each field the columns to look in, in this order: the one named by the user and no other; otherwise the one called
as the field; otherwise the format's default. `FIELD=@row` for `sample_id` numbers the samples of each unit.

A named column that is nowhere to be found is an error, never a field left empty.

Records of an input, one mapping a sample, as samples of speech.

In: the records of one unit, in order, each with a name for error messages; a `Problem` in place of one that could not
be read, or of a value in it. Out: `SpeechSample`s in the same order, and `BadSample`s in place of records that do not
make one, under their sample's id where the record has it. A stated `code_len` must be the number of codes.

Shapes: T codes of a sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import BadSample, ImportOptions, Sample, SpeechSample, Unit
from titan_speech.store.sample import SPEECH_VARIANTS, Problem, SampleInfo
from titan_speech.tokenization.vocabulary import NUM_CODES

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


Record = Mapping[str, object]

CODE_DTYPES = {"uint16": np.dtype("<u2"), "int32": np.dtype("<i4"), "uint32": np.dtype("<u4"), "int64": np.dtype("<i8")}
_NUMBERS = {"segment_order": int, "sample_rate": int, "start_time": float, "end_time": float, CODE_LEN: int}


def speech_samples(
    records: Iterable[tuple[str, Record | Problem]], columns: Columns, options: ImportOptions, unit: Unit
) -> Iterator[Sample]:
    """The samples of a unit; raises at its end if a named column was in no record."""
    seen: set[str] = set()
    named = {column for column in columns.named.values() if column != ROW}
    for row, (name, record) in enumerate(records, unit.start):
        if isinstance(record, Problem):
            yield BadSample(name, record, row)
            continue
        if not named <= seen:
            seen.update(record)
        try:
            yield _sample(record, columns, options, unit, row)
        except UnfitError as error:
            yield BadSample(_id(record, columns) or name, error.problem, row)
    if not seen:
        return  # an empty shard, or none of its records could be read: what columns there are is not known
    for field, column in columns.named.items():
        if column not in seen and column != ROW:
            raise DataError(f"{unit.path} {missing(field, column, seen)}")


@dataclass(frozen=True)
class Refused:
    """Stands in a record for a value that is not read; an error if a field is looked for in it."""

    reason: str


class UnfitError(Exception):
    """One record is not fit; an importer turns it into a `BadSample`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = Problem(kind, detail)


def _sample(record: Record, columns: Columns, options: ImportOptions, unit: Unit, row: int) -> SpeechSample:
    info, transcripts = describe(record, columns, options, f"{unit.name}:{row}")
    column = columns.locate(record).get(CODES)
    codes_T = None if column is None else codes_array(_value(CODES, column, record), options.codes_dtype)
    if codes_T is None:
        raise UnfitError("no codes", _lacks(CODES, record, columns) + _refused(record))
    _check_length(record, columns, codes_T)
    return SpeechSample(info, codes_T, transcripts, row)


def _id(record: Record, columns: Columns) -> str | None:
    """Of a sample that is refused for something else."""
    value = record.get(columns.locate(record).get("sample_id", ""))
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _check_length(record: Record, columns: Columns, codes_T: NDArray) -> None:
    column = columns.locate(record).get(CODE_LEN)
    value = None if column is None else _value(CODE_LEN, column, record)
    if value is None or codes_T.ndim != 1:
        return
    stated = _number(CODE_LEN, value)
    if stated != len(codes_T):
        detail = f"{column} is {stated}, but there are {len(codes_T)} codes: cut the codes to it, or correct it"
        raise UnfitError(CODE_LEN, detail)


def describe(
    record: Record, columns: Columns, options: ImportOptions, row_name: str
) -> tuple[SampleInfo, dict[str, str]]:
    """All that a record says of its sample beside the codes; transcripts by variant."""
    info: dict[str, str | int | float | None] = dict.fromkeys(("sample_id", "language", "dataset_source"))
    transcripts: dict[str, str] = {}
    for field, column in columns.locate(record).items():
        if field in (CODES, CODE_LEN):
            continue
        value = record[column]
        if type(value) is not str and (value := _value(field, column, record)) is None:
            continue
        if field in TRANSCRIPTS:
            transcripts[TRANSCRIPTS[field]] = _text(field, value)
        elif type(value) is str and field not in _NUMBERS:
            info[field] = value if value.strip() else None  # a blank name is nobody's, not one shared by many
        else:
            info[field] = _info_value(field, value)
    if columns.candidates["sample_id"] == (ROW,):
        info["sample_id"] = row_name
    info["language"] = info["language"] or options.language
    info["dataset_source"] = info["dataset_source"] or options.dataset_source
    for field in ("sample_id", "language", "dataset_source"):
        if info[field] is None:
            raise UnfitError(f"no {field}", _lacks(field, record, columns))
    return SampleInfo(**info), transcripts  # type: ignore[arg-type]


def _value(field: str, column: str, record: Record) -> object:
    value = record[column]
    if isinstance(value, Problem):
        raise UnfitError(value.kind, value.detail)
    if isinstance(value, Refused):
        raise UnfitError(
            f"{field} refused", f"{column} {value.reason} and is not imported: write codes with numpy.save"
        )
    return value


def _lacks(field: str, record: Record, columns: Columns) -> str:
    column = columns.of(field, record)
    return absent(field, columns.candidates[field], record) if column is None else f"{field}: {column!r} is empty"


def _refused(record: Record) -> str:
    return "".join(
        f". {name} {value.reason} and is not read" for name, value in record.items() if isinstance(value, Refused)
    )


def _info_value(field: str, value: object) -> str | int | float:
    if isinstance(value, np.generic):
        value = value.item()
    if field in _NUMBERS:
        return _number(field, value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnfitError(f"type of {field}", f"{field} is {value!r}: expected text")
    return str(value)


def _number(field: str, value: object) -> int | float:
    kind = _NUMBERS[field]
    try:
        number = kind(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):  # the last of Infinity as a whole number
        number = None
    if number is None or isinstance(value, bool) or (kind is int and number != float(value)):  # type: ignore[arg-type]
        expected = "a whole number" if kind is int else "seconds"
        raise UnfitError(f"type of {field}", f"{field} is {value!r}: expected {expected}")
    return number


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise UnfitError(f"type of {field}", f"{field} is {value!r}: expected text")
    return value


def codes_array(value: object, codes_dtype: str | None) -> NDArray | None:
    """Codes as the input has them; bytes only if the user said what they are."""
    if value is None:
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return _from_bytes(value, codes_dtype)
    try:
        codes_T = np.asarray(value)
    except ValueError as error:
        raise UnfitError("codes", f"codes are not one row of numbers ({error})") from None
    if codes_T.ndim > 1 and codes_T.shape[-1] == codes_T.size:  # (1, 1, T), as XCodec2 gives them
        codes_T = codes_T.reshape(-1)
    return codes_T if codes_T.dtype.isnative else codes_T.astype(codes_T.dtype.newbyteorder("="))


def _from_bytes(data: bytes | bytearray | memoryview, codes_dtype: str | None) -> NDArray:
    known = ", ".join(CODE_DTYPES)
    if codes_dtype is None:
        detail = f"codes are {len(data)} bytes of unknown width: say which with --codes-dtype ({known})"
        raise UnfitError("bytes", detail)
    dtype = CODE_DTYPES[codes_dtype]
    if len(data) % dtype.itemsize:
        detail = (
            f"codes are {len(data)} bytes, no multiple of {dtype.itemsize} as {codes_dtype} has it: not {codes_dtype}"
        )
        raise UnfitError("bytes", detail)
    return np.frombuffer(data, dtype)


def narrowed(codes_T: NDArray) -> NDArray:
    """As uint16 if all are codes, which are then not looked at again; else as they are."""
    if codes_T.size and codes_T.dtype.kind in "iu" and np.maximum.reduce(_unsigned(codes_T)) < NUM_CODES:
        return codes_T.astype(np.uint16)
    return codes_T


def _unsigned(codes_T: NDArray) -> NDArray:
    """Negative numbers become huge."""
    return codes_T.view(f"u{codes_T.itemsize}")


def check_codes_dtype(options: ImportOptions) -> None:
    if options.codes_dtype is not None and options.codes_dtype not in CODE_DTYPES:
        raise DataError(f"--codes-dtype {options.codes_dtype!r}: expected one of {', '.join(CODE_DTYPES)}")
