"""Records of an input, one mapping per sample, as samples of speech.

In: the records of one unit, in order, each with a name for error messages; a `Problem` in place of a record, or of a
value in it, that could not be read. Out: `SpeechSample`s in the same order, and a `BadSample` for each record that does
not make one, named by the sample's id where the record has it. A stated `code_len` must be the number of codes.

Shapes: T codes of a sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import BadRecordError, BadSample, ImportOptions, Sample, SpeechSample, Unit
from titan_speech.importers.columns import (
    CODE_LEN,
    CODES,
    PROBED,
    ROW,
    TRANSCRIPTS,
    Columns,
    missing_column,
    missing_field,
)
from titan_speech.importers.limits import check_codes_length
from titan_speech.store.problems import Problem
from titan_speech.store.sample import SampleInfo
from titan_speech.tokenization.vocabulary import NUM_CODES
from titan_speech.utils.text_table import counted

Record = Mapping[str, object]

CODE_DTYPES = {"uint16": np.dtype("<u2"), "int32": np.dtype("<i4"), "uint32": np.dtype("<u4"), "int64": np.dtype("<i8")}
_NUMBERS = {"segment_order": int, "sample_rate": int, "start_time": float, "end_time": float, CODE_LEN: int}


@dataclass(frozen=True)
class UnreadValue:
    """In a record, a value that is not read for a reason such as safety; an error if it is needed for a field."""

    reason: str
    remedy: str = "write codes with numpy.save"


def speech_samples(
    records: Iterable[tuple[str, Record | Problem]], columns: Columns, options: ImportOptions, unit: Unit
) -> Iterator[Sample]:
    """The samples of a unit.

    Args:
        records: name (for errors) and record, in the order of the unit.

    Raises:
        DataError: before the first sample, if transcripts would be passed over; at the end of the unit, if a column
            the user named was in no record.
    """
    records = iter(records)
    first = list(islice(records, PROBED))
    _check_transcripts([record for _, record in first if not isinstance(record, Problem)], columns, unit)
    seen: set[str] = set()
    named = {column for column in columns.named.values() if column != ROW}
    for row, (name, record) in enumerate(chain(first, records), unit.start):
        if isinstance(record, Problem):
            yield BadSample(name, record, row)
            continue
        if not named <= seen:
            seen.update(record)
        try:
            yield _speech_sample(record, columns, options, unit, row)
        except BadRecordError as error:
            yield BadSample(_sample_id(record, columns) or name, error.problem, row)
    if not seen:
        return  # an empty shard, or none of its records could be read: its columns are not known
    for field, column in columns.named.items():
        if column not in seen and column != ROW:
            raise DataError(f"{unit.path} {missing_column(field, column, seen)}")


def _check_transcripts(first: Sequence[Record], columns: Columns, unit: Unit) -> None:
    """Refuse transcripts that would be passed over, by the first records, before the rest is read."""
    values = {name: [record.get(name) for record in first] for record in first for name in record}
    texts = [name for name, found in values.items() if all(one is None or isinstance(one, str) for one in found)]
    columns.check_transcripts(texts, str(unit.path), values.__getitem__)


def _speech_sample(record: Record, columns: Columns, options: ImportOptions, unit: Unit, row: int) -> SpeechSample:
    info, transcripts = read_metadata(record, columns, options, f"{unit.name}:{row}")
    located = columns.locate(record)
    column = located.get(CODES)
    codes_T = None if column is None else codes_array(_value(CODES, column, record), options)
    if codes_T is None:
        unread = [(name, value.reason) for name, value in record.items() if isinstance(value, UnreadValue)]
        hint = "".join(f". {name} {reason} and is not read" for name, reason in unread)
        raise BadRecordError("no codes", _missing_value(CODES, record, columns) + hint)
    column = located.get(CODE_LEN)
    stated = None if column is None else _value(CODE_LEN, column, record)
    if stated is not None and codes_T.ndim == 1 and _number(CODE_LEN, stated) != len(codes_T):
        found = f"{column} is {_number(CODE_LEN, stated)}, but there are {counted(len(codes_T), 'code')}"
        raise BadRecordError(CODE_LEN, f"{found}: cut the codes to it, or correct it")
    return SpeechSample(info, codes_T, transcripts, row)


def _sample_id(record: Record, columns: Columns) -> str | None:
    """The id of a bad record, if it has a usable one."""
    value = record.get(columns.locate(record).get("sample_id", ""))
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def read_metadata(
    record: Record, columns: Columns, options: ImportOptions, row_name: str
) -> tuple[SampleInfo, dict[str, str]]:
    """Everything a record says about its sample except the codes.

    Args:
        row_name: the sample's id where the user asked for `sample_id=@row`.

    Returns:
        Metadata, and transcripts by variant.

    Raises:
        BadRecordError: a value has the wrong type, or id, language or source are missing.
    """
    info: dict[str, str | int | float | None] = dict.fromkeys(("sample_id", "language", "dataset_source"))
    transcripts: dict[str, str] = {}
    for field, column in columns.locate(record).items():
        if field in (CODES, CODE_LEN):
            continue
        value = record[column]
        if type(value) is not str and (value := _value(field, column, record)) is None:
            continue
        if field in TRANSCRIPTS:
            if not isinstance(value, str):
                found = f"{field} is {value!r}" if column == field else f"{field}, read from {column!r}, is {value!r}"
                raise BadRecordError(f"type of {field}", f"{found}: expected text")
            transcripts[TRANSCRIPTS[field]] = value
        elif type(value) is str and field not in _NUMBERS:
            info[field] = value if value.strip() else None  # many samples with a blank name do not share one name
        else:
            info[field] = _metadata_value(field, value)
    if columns.candidates["sample_id"] == (ROW,):
        info["sample_id"] = row_name
    info["language"] = info["language"] or options.language
    info["dataset_source"] = info["dataset_source"] or options.dataset_source
    for field in ("sample_id", "language", "dataset_source"):
        if info[field] is None:
            raise BadRecordError(f"no {field}", _missing_value(field, record, columns))
    return SampleInfo(**info), transcripts  # type: ignore[arg-type]


def _value(field: str, column: str, record: Record) -> object:
    value = record[column]
    if isinstance(value, Problem):
        raise BadRecordError(value.kind, value.detail)
    if isinstance(value, UnreadValue):
        detail = f"{column} {value.reason} and is not imported: {value.remedy}"
        raise BadRecordError(f"{field} refused", detail)
    return value


def _missing_value(field: str, record: Record, columns: Columns) -> str:
    column = columns.of(field, record)
    if column is None:
        return missing_field(field, columns.candidates[field], record)
    return f"{field}: {column!r} is empty"


def _metadata_value(field: str, value: object) -> str | int | float:
    if isinstance(value, np.generic):
        value = value.item()
    if field in _NUMBERS:
        return _number(field, value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRecordError(f"type of {field}", f"{field} is {value!r}: expected text")
    return str(value)


def _number(field: str, value: object) -> int | float:
    kind = _NUMBERS[field]
    try:
        number = kind(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):  # OverflowError: infinity as a whole number
        number = None
    if number is None or isinstance(value, bool) or (kind is int and number != float(value)):  # type: ignore[arg-type]
        expected = "a whole number" if kind is int else "seconds"
        raise BadRecordError(f"type of {field}", f"{field} is {value!r}: expected {expected}")
    return number


def codes_array(value: object, options: ImportOptions) -> NDArray | None:
    """Codes in the integer type of the input.

    Args:
        value: a list, an array, bytes, or None.
        options: bytes without its `codes_dtype` are refused, and so is what is over its limits.

    Returns:
        The codes in native byte order, or None without a value; their range is not checked.

    Raises:
        BadRecordError: the value is not one row of numbers, or too long.
    """
    if value is None:
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return _codes_from_bytes(value, options)
    try:
        if isinstance(value, list) and _has_text(value):
            raise ValueError("a list with text")
        codes_T = np.asarray(value)
    except (ValueError, RecursionError) as error:
        raise BadRecordError("codes", f"codes are not one row of numbers ({error})") from None
    _refuse_too_long(codes_T.size, options)  # nothing of a mapped array was read so far
    if codes_T.ndim > 1 and codes_T.shape[-1] == codes_T.size:  # (1, 1, T), as XCodec2 returns them
        codes_T = codes_T.reshape(-1)
    return codes_T if codes_T.dtype.isnative else codes_T.astype(codes_T.dtype.newbyteorder("="))


def _has_text(values: list) -> bool:
    """Numpy gives every item of a list the width of the longest text: 2 MB of JSON would take 4 TB."""
    kinds = set(map(type, values))
    return str in kinds or (list in kinds and any(_has_text(item) for item in values if type(item) is list))


def _refuse_too_long(num_codes: int, options: ImportOptions) -> None:
    if problem := check_codes_length(num_codes, options.limits):
        raise BadRecordError(problem.kind, problem.detail)


def _codes_from_bytes(data: bytes | bytearray | memoryview, options: ImportOptions) -> NDArray:
    codes_dtype = options.codes_dtype
    if codes_dtype is None:
        known = ", ".join(CODE_DTYPES)
        detail = f"codes are {len(data)} bytes of unknown width: say which with --codes-dtype ({known})"
        raise BadRecordError("bytes", detail)
    dtype = CODE_DTYPES[codes_dtype]
    if len(data) % dtype.itemsize:
        detail = f"codes are {len(data)} bytes, not a multiple of the {dtype.itemsize} bytes of {codes_dtype}"
        raise BadRecordError("bytes", f"{detail}: not {codes_dtype}")
    _refuse_too_long(len(data) // dtype.itemsize, options)
    return np.frombuffer(data, dtype)


def check_codes_dtype(options: ImportOptions) -> None:
    """Raises `DataError` for an unknown --codes-dtype."""
    if options.codes_dtype is not None and options.codes_dtype not in CODE_DTYPES:
        raise DataError(f"--codes-dtype {options.codes_dtype!r}: expected one of {', '.join(CODE_DTYPES)}")


def narrow_codes(codes_T: NDArray) -> NDArray:
    """As uint16 if every value is a code, so that the range is not checked again; otherwise unchanged."""
    if codes_T.size and codes_T.dtype.kind in "iu":
        unsigned_T = codes_T.view(f"u{codes_T.itemsize}")  # negative numbers become huge: one pass finds both
        if np.maximum.reduce(unsigned_T) < NUM_CODES:
            return codes_T.astype(np.uint16)
    return codes_T
