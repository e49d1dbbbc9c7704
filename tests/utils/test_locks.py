"""One job a run folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from titan_speech.errors import CheckpointError
from titan_speech.utils.locks import LOCK_NAME, RECORD_BYTES, Holder, RunLock

HOLD = "import sys, time; from pathlib import Path; from titan_speech.utils.locks import RunLock\n"
HOLD += "lock = RunLock.take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def holding_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_job_is_refused_and_a_killed_one_is_in_nobodys_way(tmp_path: Path) -> None:
    holder = holding_process(tmp_path)
    with pytest.raises(CheckpointError, match=rf"in use by another job: process {holder.pid} on "):
        RunLock.take(tmp_path)
    holder.kill()
    holder.wait()
    RunLock.take(tmp_path).release()
    assert (tmp_path / LOCK_NAME).read_text() == ""


def write_record(folder: Path, holder: Holder) -> None:
    """In place, as a process on another machine does whose lock is not seen here."""
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, json.dumps(asdict(holder)).encode().ljust(RECORD_BYTES), 0)
    os.close(descriptor)


ELSEWHERE = Holder("node-7", 4711, "another kernel")


def test_a_job_of_another_machine_is_seen_by_its_beats_whatever_the_clocks_say(tmp_path: Path) -> None:
    write_record(tmp_path, ELSEWHERE)
    beat = threading.Timer(0.3, write_record, (tmp_path, replace(ELSEWHERE, beats=1)))
    beat.start()
    with pytest.raises(CheckpointError, match="process 4711 on node-7"):
        RunLock.take(tmp_path, watch_sec=5.0)
    beat.join()


def test_a_job_of_another_machine_that_stands_still_is_taken_over(tmp_path: Path) -> None:
    write_record(tmp_path, ELSEWHERE)
    lock = RunLock.take(tmp_path, watch_sec=0.2, beat_sec=0.05)
    assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    lock.release()


def test_half_a_record_is_no_holder(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text('{"host": "node-7", "pi')
    RunLock.take(tmp_path).release()
