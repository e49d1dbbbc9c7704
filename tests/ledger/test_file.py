"""The ledger's file: what a kill, a full disk and a folder without access leave of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import ROOT
from titan_speech.ledger.file import LastLine, Ledger, next_start
from titan_speech.ledger.goodput import account
from titan_speech.ledger.records import COMPLETE, KILLED, SAVE_STALL, START, STEP, ledger_file, read_ledger

KILLED_IN_A_SAVE = """
import os, sys, time
from pathlib import Path
from titan_speech.ledger.file import ledger
from titan_speech.ledger.records import SAVE_STALL
ledger.open(Path(sys.argv[1]), rank=0, start=0, world_size=1, from_step=0)
ledger.step_ended(5)
ledger.end_span()
with ledger.part(SAVE_STALL):
    time.sleep(0.7)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_its_account_up_to_its_last_moments(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_IN_A_SAVE, str(tmp_path)], cwd=ROOT, env=dict(os.environ))
    assert done.returncode == -9
    (process,) = read_ledger(tmp_path)
    assert process.how == KILLED
    first, last = process.spans
    assert (first.first_step, first.last_step, last.num_steps) == (1, 5, 0)
    assert last.seconds[SAVE_STALL] > 0.2
    assert first.seconds[START] > 0
    assert next_start(tmp_path) == 1


def test_a_ledger_of_two_starts_is_read_as_two_processes(tmp_path: Path) -> None:
    for start in range(2):
        assert next_start(tmp_path) == start
        some = Ledger()
        some.open(tmp_path, rank=0, start=start, world_size=1, from_step=3 * start)
        with some.part(STEP):
            some.step_ended(3 * start + 3)
        some.close(COMPLETE)
        file = ledger_file(tmp_path, 0)
        if not start:
            with file.open("a") as lines:
                lines.write('{"kind": "span", "start": 0, "first')  # cut by a kill
    first, second = read_ledger(tmp_path)
    assert (first.how, second.how) == (COMPLETE, COMPLETE)
    assert (second.start, second.from_step, second.spans[0].last_step) == (1, 3, 6)
    assert account([first, second]).starts[1].last_step == 6


def test_lines_of_a_full_disk_follow_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = LastLine(tmp_path / "ledger" / "rank-0.jsonl")
    line.end({"a": 1})

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        line.rewrite({"a": 2})
        line.end({"a": 3})
        line.rewrite({"a": 4})
    line.rewrite({"a": 5})
    line.end({"a": 6})
    assert (tmp_path / "ledger" / "rank-0.jsonl").read_text() == '{"a": 1}\n{"a": 3}\n{"a": 6}\n'
    assert len(caplog.records) == 1, "one warning"
    assert "Training continues without" in caplog.text


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ledger").write_text("a file where the folder should be")
    some = Ledger()
    some.open(tmp_path, rank=0, start=0, world_size=1, from_step=0)
    time.sleep(0.5)
    some.end_span()
    some.close(COMPLETE)
    assert len(caplog.records) == 1
    assert next_start(tmp_path) == 0
