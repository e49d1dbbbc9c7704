"""Files of a text input and their bytes as lines.

In: files and folders, plain or compressed (.gz, .zst). Out: the files in an order that depends on their names alone,
and their lines as text. What is not UTF-8, or not whole, is an error with file and line.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from titan_speech.errors import DataError

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
