"""A document as its source has it, before anything is decided about it.

In: one row of an input. Out: `Document`, or the `TextSample` a store's build takes. A document without text has an
empty string: whether that is an error (a build) or a count in a report (`text prepare`) is not decided here.

Which column of an input holds which field of a document.

In: the columns found, the preset and what the command line says. Out: field -> column, or a `DataError` that names what
was found, what was expected and the nearest name. What is said on the command line goes before the preset, and fields
that neither names are looked up by their own name.

Files of a text input and their bytes as lines.

In: files and folders, plain or compressed (.gz, .zst). Out: the files in an order that depends on their names alone,
and their lines as text. What is not UTF-8, or not whole, is an error with file and line.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO

import zstandard

from titan_speech.errors import DataError
from titan_speech.importers.base import TextSample
from titan_speech.importers.registry import Preset
from titan_speech.store.sample import SampleInfo

UNKNOWN_LICENCE = "not stated"


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
    """Quality measures the source computed itself, of the whole document."""
    position: int = 0
    """In its unit's file, as its format counts: rows from 0, lines from 1."""

    @property
    def all_text(self) -> str:
        return self.text if self.user is None else f"{self.user}\n{self.text}"

    def sample(self) -> TextSample:
        info = SampleInfo(sample_id=self.id, dataset_source=self.source, language=self.language)
        return TextSample(info, self.text, self.user)


FIELDS = ("sample_id", "text", "user", "language", "dataset_source", "licence", "quality_signals", "dialogue", "meta")
"""What a column may hold: `dialogue` is text with <human>: and <bot>: turns; `meta` an object that may name a
language."""


def resolve_columns(found: Iterable[str], said: Mapping[str, str], preset: Preset | None, where: str) -> dict[str, str]:
    """Columns of all fields that the input has."""
    names = list(found)
    unknown = [field for field in said if field not in FIELDS]
    if unknown:
        raise DataError(f"column for unknown field {unknown[0]!r}; fields of text are {', '.join(FIELDS)}")
    asked = {**(preset.columns if preset else {}), **said}
    columns = asked | {name: name for name in FIELDS if name in names and name not in asked}
    missing = [(field, column) for field, column in asked.items() if column not in names and _is_needed(field, preset)]
    if missing:
        raise DataError(f"{where}: {_said_missing(missing, names)}; found {', '.join(names) or 'no columns'}")
    columns = {field: column for field, column in columns.items() if column in names}
    if not {"text", "dialogue"} & set(columns):
        raise DataError(f"{where} has no column `text`; found {', '.join(names)}: name it with --columns text=NAME")
    return columns


def _is_needed(field: str, preset: Preset | None) -> bool:
    """`meta` only helps to find the language; all else that is asked for must be there."""
    return field != "meta"


def _said_missing(missing: list[tuple[str, str]], names: list[str]) -> str:
    said = [f"no column {column!r} for {field}{_nearest(column, names)}" for field, column in missing]
    return "; ".join(said)


def _nearest(column: str, names: list[str]) -> str:
    matches = get_close_matches(column, names, n=1, cutoff=0.5)
    return f" (nearest is {matches[0]!r})" if matches else ""


COMPRESSIONS = ("", ".gz", ".zst")
CHUNK_BYTES = 128 << 10


def input_files(inputs: tuple[Path, ...], suffixes: tuple[str, ...], format_name: str) -> list[tuple[str, Path]]:
    """(name, path) of all files: the name is relative to the input given, and unique."""
    wanted = tuple(suffix + compression for suffix in suffixes for compression in COMPRESSIONS)
    files = [pair for path in inputs for pair in _files_of(path, wanted)]
    if not files:
        raise DataError(f"{format_name}: no {', '.join(suffixes)} file in {_said(inputs)}; {_looks_like(inputs)}")
    names = Counter(name for name, _ in files)
    return [(name if names[name] == 1 else str(path), path) for name, path in files]


def _files_of(path: Path, wanted: tuple[str, ...]) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise DataError(f"{path} does not exist; --input takes files and folders")
    found = [p for p in path.rglob("*") if p.name.endswith(wanted) and p.is_file()]
    return sorted((p.relative_to(path).as_posix(), p) for p in found)


def _said(inputs: tuple[Path, ...]) -> str:
    return ", ".join(map(str, inputs)) or "no input"


def _looks_like(inputs: tuple[Path, ...]) -> str:
    suffixes = Counter(p.suffix for path in inputs if path.is_dir() for p in path.rglob("*") if p.is_file())
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common(5))
    names = {".parquet": "text-parquet", ".jsonl": "text-jsonl", ".txt": "text-plain", ".json": "text-jsonl"}
    other = next((names[suffix] for suffix, _ in suffixes.most_common() if suffix in names), None)
    return f"found {found or 'no files'}" + (f"; use --from {other}" if other else "")


def open_bytes(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdStream(path))
    return open(path, "rb")


class _ZstdStream(io.RawIOBase):
    """Frames end to end; zstandard's own reader takes a file that breaks off for one that ends."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  (closed in close)
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._held = b""
        self._began = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._held:
            if self._frame.eof:
                left = self._frame.unused_data
                self._frame, self._began = zstandard.ZstdDecompressor().decompressobj(), False
            else:
                left = b""
            data = left or self._file.read(CHUNK_BYTES)
            if not data:
                if self._began:
                    raise EOFError("the last frame is not whole")
                return 0
            self._held, self._began = self._frame.decompress(data), True
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines as they are."""
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path} breaks off after line {number}: {error}; fetch it again") from error


def encoding_of(number: int) -> str:
    """Of a line: some editors begin a file with a mark of its encoding."""
    return "utf-8-sig" if number == 1 else "utf-8"


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without their end."""
    for number, line in raw_lines(path):
        try:
            text = line.decode(encoding_of(number))
        except UnicodeDecodeError as error:
            detail = f"byte {error.object[error.start]:#04x} at column {error.start}"
            raise DataError(
                f"{path}, line {number} is not UTF-8 ({detail}); convert it, as with iconv -t UTF-8"
            ) from error
        yield number, text.rstrip("\r\n")
