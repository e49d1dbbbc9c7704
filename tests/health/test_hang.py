"""A rank that stops answering ends the run with one report."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.runs import train
from titan_speech.distributed.last_words import is_of_a_collective
from titan_speech.exit_codes import EXIT_HUNG
from titan_speech.health.watchdog import HangReport, RankMark, hang_lines


def test_the_report_names_silent_ranks_first_then_those_furthest_behind() -> None:
    mine = RankMark(7, "gradient norm and update", for_sec=90.0, beats=50)
    marks: list[RankMark | None] = [
        mine,
        RankMark(7, "gradient norm and update", 90.0, 50),
        RankMark(7, "reading the batches", 95.0, 50),
        RankMark(6, "forward and backward of microbatch 1 of 2", 1.0, 10),
        None,
    ]
    assert hang_lines(0, mine, marks) == [
        "rank 3: silent for about 80 s; last heartbeat in step 6, forward and backward of microbatch 1 of 2",
        "rank 4: never sent a heartbeat",
        "rank 2: in step 7, reading the batches, for 95 s",
    ]
    assert hang_lines(0, mine, [mine] * 3) == ["all other ranks answer, and are where this one is"]
    assert hang_lines(0, mine, [None] * 100)[-1] == "and 91 more ranks"


def test_errors_of_collectives_are_told_from_others() -> None:
    gloo = "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 8000ms for recv operation"
    assert is_of_a_collective(RuntimeError(gloo))
    assert not is_of_a_collective(RuntimeError("out of memory"))
    assert not is_of_a_collective(ValueError(gloo))


def test_the_report_shows_what_a_peer_sent_as_escapes_and_without_credentials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = HangReport.__new__(HangReport)  # without a process group
    report.run_folder, report.slots_of_step = tmp_path, lambda step: range(step, step + 1)
    report.heartbeat = SimpleNamespace(rank=0)  # type: ignore[assignment]
    report._write(
        RankMark(3), "recv from tcp://user:hunter22@node\x1b[2J\u202e failed", "lost a rank", ["rank 1: silent"]
    )
    written = (tmp_path / "health" / "hang.txt").read_text()
    for text in (written, capsys.readouterr().err):
        assert text.endswith("@node\\u001b[2J\\u202e failed\n  rank 1: silent\n")
        assert "hunter22" not in text


@pytest.mark.slow
def test_a_stopped_rank_ends_all_within_the_limit_with_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON", "3:1:hang")
    finished = train(
        tmp_path, "--comm.train_timeout_seconds", "12", world_size=2, entry="tests/support/poisoned_train.py"
    )
    assert finished.returncode != 0
    assert f"exitcode  : {EXIT_HUNG}" in finished.output
    assert finished.output.count("the run hangs") == 1
    assert "Traceback" not in finished.output.split("torch/distributed/elastic")[0]  # torchrun's own comes after
    report = (tmp_path / "health" / "hang.txt").read_text()
    assert re.search(r"Rank 0 waited \d+ s in step 3 \(slots 8-11\), ", report)
    assert re.search(r"rank 1: silent for about \d+ s; last heartbeat in step [23], ", report)
