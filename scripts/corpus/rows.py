"""In: what the readers found. Out: the rows of `corpus.jsonl` (speech) and `text.jsonl` (text only).

One row per line, keys in the order of the fields, UTF-8 without escapes, so equal corpora are equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class SpeechRow:
    """One utterance with its transcript."""

    sample_id: str
    wav: str  # relative to the corpus folder
    language: str  # ISO 639-1
    speaker_id: str
    dataset_source: str
    source_video_id: str  # segments of one source, in segment_order, are adjacent in time
    segment_order: int
    start_time: float  # seconds in the source
    end_time: float
    sample_rate: int
    transcript_native: str
    transcript_romanized: str | None
    licence: str
    split: str  # "train" or "heldout"


@dataclass(frozen=True)
class TextRow:
    """One text document."""

    document_id: str
    language: str
    text: str
    dataset_source: str
    licence: str
    split: str


def write_jsonl(path: Path, rows: Iterable[SpeechRow | TextRow]) -> int:
    """Write through a temporary name, so a file that exists is complete. Returns the number of rows."""
    temporary = path.with_suffix(".partial")
    lines = [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)
    return len(lines)


def read_speech(corpus: Path, split: str | None = None) -> list[SpeechRow]:
    rows = [SpeechRow(**json.loads(line)) for line in _lines(corpus / "corpus.jsonl")]
    return [row for row in rows if split in (None, row.split)]


def read_text(corpus: Path, split: str | None = None) -> list[TextRow]:
    rows = [TextRow(**json.loads(line)) for line in _lines(corpus / "text.jsonl")]
    return [row for row in rows if split in (None, row.split)]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
