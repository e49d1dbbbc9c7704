"""The trace of a run: events that Perfetto takes, nested as the spans were, of ranks, starts and uploads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from titan_speech.cli.main import main
from titan_speech.errors import DataError
from titan_speech.ledger.file import Ledger
from titan_speech.ledger.records import STEP
from titan_speech.ledger.span_file import Span, SpanFile, spans_file
from titan_speech.report.trace import trace


def write(folder: Path, of: str, *spans: Span) -> None:
    file = SpanFile(spans_file(folder, of))
    for span in spans:
        file.add(span)
    file.flush()


def events(folder: Path) -> list[dict]:
    return json.loads("".join(trace(folder)))["traceEvents"]


def test_ranks_starts_threads_and_uploads_have_tracks_of_their_own(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.open(tmp_path, rank=0, start=0, world_size=1, from_step=0)
    with ledger.part(STEP):
        pass
    ledger.close("complete")
    began_sec = json.loads((tmp_path / "ledger" / "rank-0.jsonl").read_text().splitlines()[0])["at"]
    step = Span("step", began_sec + 1, 2.0, "MainThread", 3)
    inner = Span("fwd_bwd", began_sec + 1.5, 1.0, "MainThread", 3)
    saved = Span("checkpoint_write", began_sec + 2, 5.0, "Thread-1", 3)
    hostile = Span("flagged\x1b[2J", began_sec + 3, None, "MainThread", 3)
    write(tmp_path, "rank-0", inner, step, saved, hostile)
    write(tmp_path, "uploads-0", Span("upload step-3", began_sec + 4, 9.0, "uploads", 3))
    found = events(tmp_path)
    by_name = {event["name"]: event for event in found if event["ph"] in "Xi"}
    assert by_name["step"]["ts"] == pytest.approx(1e6)
    assert by_name["step"]["ts"] <= by_name["fwd_bwd"]["ts"]
    assert by_name["fwd_bwd"]["ts"] + by_name["fwd_bwd"]["dur"] <= by_name["step"]["ts"] + by_name["step"]["dur"]
    assert by_name["fwd_bwd"]["tid"] == by_name["step"]["tid"] != by_name["checkpoint_write"]["tid"]
    assert by_name["upload step-3"]["pid"] != by_name["step"]["pid"] == 0
    assert by_name["start 0, 1 processes"]["args"]["ended"] == "complete"
    assert by_name["step"]["args"] == {"step": 3}
    assert not any("\x1b" in event["name"] for event in found)
    counters = [event["args"] for event in found if event["ph"] == "C"]
    assert all(0 <= share <= 1.01 for shares in counters for share in shares.values())
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in found if e["ph"] in "Xi"} <= named.keys(), "every track has a name"


def test_a_folder_without_anything_and_two_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder of a run that has begun"):
        list(trace(tmp_path))
    assert main(["report", str(tmp_path), str(tmp_path), "--trace", str(tmp_path / "t.json")]) == 2
    assert not (tmp_path / "t.json").exists()
