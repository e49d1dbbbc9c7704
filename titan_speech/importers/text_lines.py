"""Files of a text input, and their bytes as lines.

In: files and folders, plain or compressed (.gz, .zst). Out: the files, in an order that depends on their names alone,
and their lines as text, of bounded length (limits.py). Bytes that are not UTF-8, and files that end too early, are
errors with file and line.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from titan_speech.errors import DataError
from titan_speech.importers.limits import ImportLimits, lines_within
from titan_speech.store.problems import Problem

COMPRESSIONS = ("", ".gz", ".zst")


def input_files(inputs: tuple[Path, ...], suffixes: tuple[str, ...], format_name: str) -> list[tuple[str, Path]]:
    """All files of a format.

    Args:
        suffixes: of the uncompressed files.

    Returns:
        (name, path) of each file; names are unique, and relative to the input where that is enough.

    Raises:
        DataError: an input does not exist, or none holds such a file; the message says what was found instead.
    """
    wanted = tuple(suffix + compression for suffix in suffixes for compression in COMPRESSIONS)
    files = [pair for path in inputs for pair in _files_under(path, wanted)]
    if not files:
        names = ", ".join(map(str, inputs)) or "no input"
        raise DataError(f"{format_name}: no {', '.join(suffixes)} file in {names}; {_found_instead(inputs)}")
    counts = Counter(name for name, _ in files)
    return [(name if counts[name] == 1 else str(path), path) for name, path in files]


def _files_under(path: Path, wanted: tuple[str, ...]) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise DataError(f"{path} does not exist; --input takes files and folders")
    found = [p for p in path.rglob("*") if p.name.endswith(wanted) and p.is_file()]
    return sorted((p.relative_to(path).as_posix(), p) for p in found)


def _found_instead(inputs: tuple[Path, ...]) -> str:
    suffixes = Counter(p.suffix for path in inputs if path.is_dir() for p in path.rglob("*") if p.is_file())
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in suffixes.most_common(5))
    names = {".parquet": "text-parquet", ".jsonl": "text-jsonl", ".txt": "text-plain", ".json": "text-jsonl"}
    other = next((names[suffix] for suffix, _ in suffixes.most_common() if suffix in names), None)
    return f"found {found or 'no files'}" + (f"; use --from {other}" if other else "")


def raw_lines(path: Path, limits: ImportLimits) -> Iterator[tuple[int, bytes | Problem]]:
    """Line numbers from 1, and the lines as bytes, or that one is too long.

    Raises:
        DataError: the file cannot be read to its end.
    """
    number = 0
    try:
        with _open_bytes(path) as file:
            for number, line in enumerate(lines_within(file, limits), 1):
                yield number, line
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} breaks off after line {number}: {error}; fetch it again") from error


def line_encoding(number: int) -> str:
    """The encoding of a line by its number: some editors begin a file with a byte order mark."""
    return "utf-8-sig" if number == 1 else "utf-8"


def text_lines(path: Path, limits: ImportLimits) -> Iterator[tuple[int, str | Problem]]:
    """Line numbers from 1, and the lines without their line ends, or that one is too long.

    Raises:
        DataError: a line is not UTF-8, or the file cannot be read to its end.
    """
    for number, line in raw_lines(path, limits):
        if isinstance(line, Problem):
            yield number, line
            continue
        try:
            text = line.decode(line_encoding(number))
        except UnicodeDecodeError as error:
            detail = f"byte {error.object[error.start]:#04x} at column {error.start}"
            raise DataError(
                f"{path}, line {number} is not UTF-8 ({detail}); convert it, as with iconv -t UTF-8"
            ) from error
        yield number, text.rstrip("\r\n")


def _open_bytes(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))  # type: ignore[arg-type]
    return open(path, "rb")
