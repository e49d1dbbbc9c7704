"""WebDataset tars: the members of one sample follow each other and have the same key.

In: tars (`.tar`, `.tar.gz`, `.tgz`). `a/0007.json`, `a/0007.npy` and `a/0007.txt` are the sample `a/0007`. Out: samples
of speech. Columns are the keys of the `.json` member and the endings of the other members: `npy`, `codes.npy`, `txt`.
By default `codes` is `npy`, `transcript_native` is `txt` and `sample_id` the key, unless the json has fields with
these names. Unit: one tar. A member that cannot be read makes its sample a bad one; tars in which the members of a key
are spread out are refused, since half a sample may look like a whole one.

Reading costs what tarfile costs; benchmarks/results/build.json compares its rate with that of the webdataset library.
tarfile takes the end of a truncated archive for its regular end, so the end is checked here.
"""

from __future__ import annotations

import gzip
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.importers.base import BadRecordError, ImportOptions, Sample, Unit
from titan_speech.importers.columns import CODES, SAMPLE_KEY, speech_columns
from titan_speech.importers.files import find_files, format_hint
from titan_speech.importers.limits import ImportLimits
from titan_speech.importers.npy import array_of_bytes
from titan_speech.importers.records import Record, UnreadValue, check_codes_dtype, speech_samples
from titan_speech.store.problems import Problem
from titan_speech.utils.json_text import parse_json

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_DEFAULT_COLUMNS = {"sample_id": SAMPLE_KEY, CODES: "npy", "transcript_native": "txt"}
_CHUNK_BYTES = 1 << 20
_HEADER_BYTES = 512
MAX_HEADER_BYTES = 16 << 10
"""Of a long name or of extended attributes; tarfile's search in them is quadratic before Python 3.11.10."""
MAX_MEMBERS = 4 << 20
"""Of one tar: the keys of all of them are kept, in about 1 GB."""
_PREAMBLE = 10
"""Bytes of a .npy before its header: magic, version and the header's length in two bytes."""
_ROW = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][iu][1248])', 'fortran_order': False, 'shape': \((\d+),\), \} *\n", re.S
)
_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, OverflowError, RecursionError)
_PICKLE = "runs the code it contains when it is read"
_UNREAD = {"npz": "is an archive of several arrays", "zip": "is an archive"} | dict.fromkeys(
    ("pth", "pt", "pyd", "pkl", "pickle"), _PICKLE
)


class WebDatasetImporter:
    """`--from webdataset`."""

    def __init__(self, options: ImportOptions) -> None:
        check_codes_dtype(options)
        self._options = options
        self._columns = speech_columns(options, _DEFAULT_COLUMNS)
        self._files = find_files(options.inputs, _TAR_SUFFIXES, "webdataset")
        _check_tar(self._files[0].path)

    def units(self) -> list[Unit]:
        return [Unit(file.name, file.path, file.num_bytes) for file in self._files]

    def samples(self, unit: Unit) -> Iterator[Sample]:
        records = _records(unit.path, self._options.limits)
        return speech_samples(records, self._columns, self._options, unit)


def _check_tar(path: Path) -> None:
    try:
        with _open(path) as file, _open_tar(file):
            pass
    except _DAMAGE as error:
        raise DataError(f"{path} is not a tar ({error}){format_hint([path], 'webdataset')}") from error


def _open(path: Path) -> BinaryIO:
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if zipped else open(path, "rb")


class _BoundedReads:
    """A file whose reads are bounded: tarfile reads as much as a header of a long name announces."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header announces {num_bytes:,} bytes, expected at most {MAX_HEADER_BYTES:,}")
        return self._file.read(num_bytes)


def _open_tar(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast(IO[bytes], _BoundedReads(file)), mode="r:")


class _Member(NamedTuple):
    """A file of a sample; `number` counts from 1, as lines of `tar -tf` do."""

    key: str
    ending: str
    number: int
    name: str
    data: bytes | UnreadValue


def _records(path: Path, limits: ImportLimits) -> Iterator[tuple[str, Record | Problem]]:
    """One record per key; the members of a key must follow each other, as WebDataset writes them."""
    seen: dict[str, tuple[_SeenMember, ...]] = {}
    for key, group in groupby(_sample_members(path, limits), attrgetter("key")):
        members = tuple(group)
        _refuse_spread(path, members, seen)
        yield key, _record(key, members, limits)


def _sample_members(path: Path, limits: ImportLimits) -> Iterator[_Member]:
    key_before, left = "", 0
    for number, name, num_bytes, read in _members(path):
        folder, _, file_name = name.removeprefix("./").rpartition("/")  # as `tar -C FOLDER .` names members
        if not file_name.startswith(("__", ".")) and "." in file_name:
            stem, _, ending = file_name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if key != key_before:
                key_before, left = key, limits.max_member_bytes
            left -= num_bytes + _HEADER_BYTES
            try:
                data = read() if left >= 0 else _too_large(num_bytes, limits)
            except _DAMAGE as error:
                raise _damaged(path, error) from error
            yield _Member(key, ending, number, name, data)


def _too_large(num_bytes: int, limits: ImportLimits) -> UnreadValue:
    reason = f"has {num_bytes:,} bytes, which makes its sample larger than {limits.max_member_bytes:,} bytes,"
    return UnreadValue(reason, "cut the sample, or allow it with --max-member-mb")


class _SeenMember(NamedTuple):
    """What is kept of a member to detect keys that are spread out."""

    ending: str
    number: int


def _refuse_spread(path: Path, members: tuple[_Member, ...], seen: dict[str, tuple[_SeenMember, ...]]) -> None:
    """Two whole samples may share a key, though not an id; members with other endings are the rest of one sample."""
    key, before = members[0].key, seen.get(members[0].key, ())
    if before and {one.ending for one in before}.isdisjoint(one.ending for one in members):
        first, second = before[-1], members[0]
        raise DataError(
            f"{path}: the members of key {key!r} do not follow each other: {key}.{first.ending} is member "
            f"{first.number}, {key}.{second.ending} is member {second.number}. Write the tar sorted by name: "
            "unpack it to a folder and tar --sort=name -cf SORTED.tar -C FOLDER ."
        )
    seen[key] = tuple(_SeenMember(sys.intern(one.ending), one.number) for one in members)


def _record(key: str, members: tuple[_Member, ...], limits: ImportLimits) -> Record | Problem:
    record: dict[str, object] = {SAMPLE_KEY: key}
    try:
        for member in members:
            _add_member(record, member.ending, member.data, f"member {member.name}", limits)
    except BadRecordError as error:
        return error.problem
    return record


def _members(path: Path) -> Iterator[tuple[int, str, int, Callable[[], bytes]]]:
    """Number, name and size of each file, and what reads it before the next one is asked for."""
    with _open(path) as file:
        try:
            with _open_tar(file) as tar:
                number = 0
                while (member := tar.next()) is not None:
                    number += 1
                    tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every member
                    if member.size < 0 or number > MAX_MEMBERS:
                        raise tarfile.ReadError(f"member {number} of {member.size} bytes, at most {MAX_MEMBERS:,}")
                    if member.isfile():
                        yield number, member.name, member.size, partial(_read_member, file, member)
                end = tar.offset
            _check_end(file, end)
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} is damaged: {error}. Fetch or write it again")


def _read_member(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    data = file.read(member.size)
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} has {len(data)} of {member.size} bytes")
    return data


def _check_end(file: BinaryIO, end: int) -> None:
    """After the last member there are only zeros; reading them also verifies the checksum of gzip."""
    file.seek(end)
    rest = file.read(_CHUNK_BYTES)
    if not rest:
        raise tarfile.ReadError(f"it ends at byte {end} without the end marker of a tar")
    while rest:
        if rest.count(0) != len(rest):
            raise tarfile.ReadError(f"there is no valid header at byte {end}")
        rest = file.read(_CHUNK_BYTES)


def _add_member(
    record: dict[str, object], ending: str, data: bytes | UnreadValue, where: str, limits: ImportLimits
) -> None:
    if ending in record:
        raise BadRecordError(
            "member twice", f"{where}: {ending!r} occurs twice, as a member and as a json field or second member"
        )
    kind = ending.rsplit(".", 1)[-1].lower()
    if isinstance(data, bytes) and kind in ("json", "txt", "text") and len(data) > limits.max_line_bytes:
        found = f"has {len(data):,} bytes of text, more than {limits.max_line_bytes:,},"
        data = UnreadValue(found, "cut it, or allow it with --max-line-mb")
    if isinstance(data, UnreadValue):
        if ending == "json":  # any field may be in it
            raise BadRecordError("too large", f"{where} {data.reason} and is not read: {data.remedy}")
        record[ending] = data
    elif ending == "json":
        _add_json(record, data, where)
    elif kind == "npy":
        record[ending] = _npy(data, where)
    elif kind in ("txt", "text"):
        record[ending] = _text(data, where)
    elif kind in _UNREAD:
        record[ending] = UnreadValue(_UNREAD[kind])
    else:
        record[ending] = data


def _add_json(record: dict[str, object], data: bytes, where: str) -> None:
    try:
        fields = parse_json(data)
    except ValueError as error:
        raise BadRecordError("json", f"{where} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadRecordError("json", f"{where} holds a {type(fields).__name__}: expected an object of fields")
    both = sorted(record.keys() & fields.keys() - {SAMPLE_KEY})
    if both:
        raise BadRecordError("member twice", f"{where}: {both[0]!r} is both a field of the json and a member")
    record |= fields


def _npy(data: bytes, where: str) -> NDArray:
    """An array; a row of integers is read without numpy's parser, which evaluates each header as Python."""
    row = _ROW.match(data)
    if row and row.end() == _PREAMBLE + int.from_bytes(data[_PREAMBLE - 2 : _PREAMBLE], "little"):
        dtype, count = np.dtype(row[1].decode()), int(row[2])
        if len(data) - row.end() == count * dtype.itemsize:
            return np.frombuffer(data, dtype, count, row.end())
    try:
        return array_of_bytes(data)
    except ValueError as error:
        raise BadRecordError("npy", f"{where} is not a .npy array: {error}") from error


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode().strip()
    except UnicodeDecodeError as error:
        raise BadRecordError("text", f"{where} is not UTF-8: {error}") from error
