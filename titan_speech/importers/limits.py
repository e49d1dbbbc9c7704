"""How much of an input one sample may take: checked from headers and sizes before anything is read or allocated.

In: `ImportLimits`, from the command line. Out: lines of bounded length, and the `Problem` of what is over a limit: a
bad sample like any other. A tar of 700 kB can announce a member of 800 MB, a FLAC file of 200 kB hours of silence, and
one line of JSON takes up to 25 times its bytes when it is parsed. With the defaults no sample of any format takes more
than about 1.5 GB, whatever its file says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from titan_speech.store.problems import Problem
from titan_speech.utils.text_table import counted

CODES_PER_SEC = 50
MAX_DOCUMENT_CHARS = 64 << 20
"""Of one document of text; above it, blank lines or lines were meant to separate documents."""


@dataclass(frozen=True)
class ImportLimits:
    """Over a limit a sample is bad, or its file is refused if it is not known which sample it is."""

    max_member_bytes: int = 256 << 20
    """Of all members of an archive that belong to one sample, and of a compressed MDS shard, decompressed."""
    max_line_bytes: int = 16 << 20
    """Of a line, of a JSON text and of a transcript."""
    max_sample_sec: float = 3600.0
    """Of speech, as codes or as audio."""

    @property
    def max_codes(self) -> int:
        return int(self.max_sample_sec * CODES_PER_SEC)


def check_codes_length(num_codes: int, limits: ImportLimits) -> Problem | None:
    """The problem of a sample with more codes than the limit."""
    if num_codes <= limits.max_codes:
        return None
    found = f"{counted(num_codes, 'code')}, {num_codes / CODES_PER_SEC:,.0f} s"
    detail = f"{found} of speech, more than {limits.max_sample_sec:g} s: cut it, or allow it with --max-sample-sec"
    return Problem("too long", detail)


def check_text_length(name: str, text: str, max_chars: int) -> Problem | None:
    """The problem of a text with more characters than `max_chars`."""
    if len(text) <= max_chars:
        return None
    detail = f"{name} has {len(text):,} characters, more than {max_chars:,}: cut it, or allow it with --max-line-mb"
    return Problem("text too long", detail)


def check_document_length(num_chars: int) -> Problem | None:
    """The problem of a document of more than `MAX_DOCUMENT_CHARS` characters."""
    if num_chars <= MAX_DOCUMENT_CHARS:
        return None
    hint = "if blank lines or lines end its documents, say --preset paragraphs or --preset lines"
    return Problem("document too long", f"a document of more than {MAX_DOCUMENT_CHARS >> 20} M characters; {hint}")


def lines_within(file: BinaryIO, limits: ImportLimits) -> Iterator[bytes | Problem]:
    """The lines of a file with their line ends; a line over the limit is skipped and never in memory."""
    max_bytes = limits.max_line_bytes
    read = partial(file.readline, max_bytes + 1)
    for line in iter(read, b""):
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield line
            continue
        num_bytes, rest = len(line), line
        while rest and not rest.endswith(b"\n"):
            rest = read()
            num_bytes += len(rest)
        detail = f"a line of {num_bytes:,} bytes, more than {max_bytes:,}: split it, or allow it with --max-line-mb"
        yield Problem("line too long", detail)
