"""Spans: what a process did from when to when, one JSON line each, for a trace of the run.

In: names with their times. Out: RUN/spans/rank-N.jsonl of each rank, and uploads-N.jsonl of each node that uploads:

    {"name": "fwd_bwd", "at": 1767225600.25, "sec": 0.41, "thread": "MainThread", "step": 12}

`at` is a Unix time; a span without `sec` is a moment. Lines are written together, at the end of each step. A file ends
at 64 MiB (some 700,000 spans); a full disk ends it too, after one warning. The ledger says where time went at no such
cost and without a limit; spans say what followed what.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_speech.utils.json_text import parse_json

SPANS_DIR = "spans"
MAX_FILE_BYTES = 64 << 20
MAX_LINE_BYTES = 4_096

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Span:
    """A stretch of one thread's time."""

    name: str
    at_sec: float
    """Unix time of its beginning."""
    duration_sec: float | None
    """None: a moment."""
    thread: str
    step: int | None


def spans_file(run_folder: Path, of: str) -> Path:
    """The file of `rank-N` or `uploads-N`."""
    return run_folder / SPANS_DIR / f"{of}.jsonl"


class SpanFile:
    """Appends spans to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines, self._size = path, list[str](), -1
        self._is_open = True

    def add(self, span: Span) -> None:
        """Keep a span until `flush`."""
        if not self._is_open:
            return
        record = {"name": span.name, "at": round(span.at_sec, 6), "thread": span.thread}
        if span.duration_sec is not None:
            record["sec"] = round(span.duration_sec, 6)
        if span.step is not None:
            record["step"] = span.step
        self._lines.append(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Write what was added; an error, or a file that is full, ends it with a warning."""
        data, self._lines = "".join(self._lines).encode(), []
        if not data or not self._is_open:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(self._path, flags, 0o666)
            try:
                size = os.fstat(file).st_size
                if size + len(data) > MAX_FILE_BYTES:
                    raise OSError(f"it has {size:,} bytes, as many as are kept")
                os.write(file, data)
            finally:
                os.close(file)
        except OSError as error:
            self._is_open = False
            logger.warning(
                f"{self._path} is not continued: {error}. Training continues; the trace of the run ends here."
            )


def read_spans(path: Path) -> Iterator[Span]:
    """The spans of a file; lines that are cut or none of this format are left out."""
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            try:
                record = parse_json(line)
                sec, step = record.get("sec"), record.get("step")
                yield Span(
                    str(record["name"]),
                    float(record["at"]),
                    None if sec is None else float(sec),
                    str(record.get("thread", "")),
                    None if step is None else int(step),
                )
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                continue
