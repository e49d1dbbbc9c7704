"""The ledger of real runs: planted delays are in the right class, and no second is without one."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.runs import figures, kill, start_run, train_and_kill_after, train_well
from titan_speech.ledger.goodput import OF_STEPS, Account, account
from titan_speech.ledger.records import (
    COLLECTIVE_WAIT,
    COMPLETE,
    DATA_WAIT,
    IDLE,
    LOST_WORK,
    RESTART,
    SAVE_STALL,
    Process,
    ledger_file,
    read_ledger,
)

pytestmark = pytest.mark.slow
TIMEOUT_SEC = 900
SHORT = ("--training.target_tokens", "6144")


def tolerance(seconds: float) -> float:
    return max(0.05 * seconds, 0.2)


def checked(folder: Path) -> Account:
    """The account of a run, of which at most 1 % is unclassified."""
    found = account(read_ledger(folder))
    assert abs(found.unclassified_sec) <= 0.01 * found.total_sec, found
    return found


def delayed_run(folder: Path, monkeypatch: pytest.MonkeyPatch, delay: str) -> dict[int, Process]:
    """The processes by rank of a run of two ranks and six steps."""
    monkeypatch.setenv("DELAY", delay)
    process = start_run(folder, *SHORT, world_size=2, entry="tests/support/delayed_train.py")
    try:
        assert process.wait(TIMEOUT_SEC) == 0, (folder / "log.txt").read_text()[-4000:]
    finally:
        kill(process)
    checked(folder)
    return {one.rank: one for one in read_ledger(folder)}


def in_spans(process: Process, name: str) -> list[float]:
    return [span.seconds.get(name, 0.0) for span in process.spans]


def test_a_delay_of_3_s_in_collate_is_data_wait_of_its_rank_and_collective_wait_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = delayed_run(tmp_path, monkeypatch, "collate:1:3")
    other, delayed = (sum(in_spans(found[rank], DATA_WAIT)) for rank in (0, 1))
    assert delayed - other == pytest.approx(3, abs=tolerance(3))
    first, second = in_spans(found[0], COLLECTIVE_WAIT)[0], in_spans(found[1], COLLECTIVE_WAIT)[0]
    assert first - second > 2, "ranks that share cores wait for each other anyway, about a second in six steps"


def test_a_delay_of_5_s_in_a_save_is_save_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = delayed_run(tmp_path, monkeypatch, "save-5:0:5")
    delayed, other = (found[rank].spans[1].seconds[SAVE_STALL] for rank in (0, 1))  # the span after step 5
    assert delayed - other == pytest.approx(5, abs=tolerance(5)), "the other rank saves without the delay"


def pid_of(folder: Path, rank: int) -> int:
    return json.loads(ledger_file(folder, rank).read_text().splitlines()[0])["pid"]


def test_a_rank_stopped_for_10_s_was_idle_and_the_other_waited_for_it(tmp_path: Path) -> None:
    process = start_run(tmp_path, world_size=2)
    try:
        while 4 not in figures(tmp_path):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(pid_of(tmp_path, 1), signal.SIGSTOP)
        time.sleep(10)
        os.kill(pid_of(tmp_path, 1), signal.SIGCONT)
        assert process.wait(TIMEOUT_SEC) == 0
    finally:
        kill(process)
    found = checked(tmp_path)
    assert found.by_rank[1][IDLE] == pytest.approx(10, abs=tolerance(10))
    running, stopped = read_ledger(tmp_path)
    number = max(range(len(stopped.spans)), key=in_spans(stopped, IDLE).__getitem__)  # the span of the stop
    waits = [in_spans(one, COLLECTIVE_WAIT)[number] for one in (running, stopped)]
    # how long ranks that share cores wait for each other anyway is not known on a busy machine: 0.2 s per step or more
    assert waits[0] > 10 - tolerance(10), waits
    assert waits[1] < 5, "the stop is no wait of the rank that was stopped"


def test_steps_between_a_save_and_a_kill_are_lost_work_over_three_changes_of_the_world_size(tmp_path: Path) -> None:
    """Seven steps after the save of step 5, then at world sizes 2, 1 and 2."""
    steps = ("--training.target_tokens", str(1024 * 20), "--checkpoint.keep_last_full", "0")
    # step 13 is logged before it has ended, 12 has
    train_and_kill_after(tmp_path, 13, *steps, "--checkpoint.cadence", "[{every = 5, until = 5}, {every = 100}]")
    first_steps = figures(tmp_path)
    (killed,) = read_ledger(tmp_path)
    train_and_kill_after(tmp_path, 15, *steps, "--checkpoint.cadence", "[{every = 7}]", world_size=2)
    train_and_kill_after(tmp_path, 18, *steps, "--checkpoint.cadence", "[{every = 7}]")
    train_well(tmp_path, *steps, world_size=2)
    found = checked(tmp_path)
    assert [one.world_size for one in found.starts] == [1, 2, 1, 2]
    assert [one.from_step for one in found.starts] == [0, 5, 14, 14]
    assert found.starts[0].lost_steps in (7, 8)
    logged = sum(first_steps[step]["step_time_sec"] for step in range(6, found.starts[0].last_step + 1))
    began_sec = next(span.from_sec for span in killed.spans if span.first_step == 6)  # a slow run writes several spans
    partial = killed.spans[-1].until_sec - began_sec - logged
    assert found.starts[0].seconds[LOST_WORK] == pytest.approx(logged + partial, abs=tolerance(logged) + 0.2)
    assert found.seconds[RESTART] > 0
    assert found.starts[3].how == COMPLETE
    kept = sum(found.starts[-1].seconds[name] for name in OF_STEPS)
    assert found.starts[3].seconds[LOST_WORK] == 0 < kept
