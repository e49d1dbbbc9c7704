"""Span files: what is written is read, and neither a full file nor a damaged line does harm."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from titan_speech.ledger import span_file
from titan_speech.ledger.span_file import Span, SpanFile, read_spans, spans_file

STEP = Span("step", 1767225600.25, 0.5, "MainThread", 7)
FLAGGED = Span("flagged", 1767225601.0, None, "MainThread", None)


def test_spans_are_read_as_they_were_written_over_two_starts(tmp_path: Path) -> None:
    path = spans_file(tmp_path, "rank-0")
    for span in (STEP, FLAGGED):
        file = SpanFile(path)
        file.add(span)
        file.flush()
    assert list(read_spans(path)) == [STEP, FLAGGED]


def test_a_file_that_is_full_or_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_file, "MAX_FILE_BYTES", 150)
    full = SpanFile(spans_file(tmp_path, "rank-0"))
    (tmp_path / "a_file").write_text("")
    unwritable = SpanFile(tmp_path / "a_file" / "rank-1.jsonl")
    for _ in range(3):
        for file in (full, unwritable):
            file.add(STEP)
            file.flush()
    assert len(list(read_spans(spans_file(tmp_path, "rank-0")))) == 1
    assert len(caplog.records) == 2
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_lines_of_another_form_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rank-0.jsonl"
    path.write_text(
        '{"name": 1}\n[]\n{"name": "a", "at": "x"}\n' + "[" * 9_000 + '\n{"name": "b", "at": 1}\n{"name": "c'
    )
    assert [span.name for span in read_spans(path)] == ["b"]
