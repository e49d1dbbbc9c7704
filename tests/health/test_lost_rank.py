"""A rank that dies or stops, at any place: the others leave with EXIT_HUNG, and the report names the rank."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from tests.support.runs import ROOT, SMALL, children, free_port, kill, train, train_well
from tests.support.spawn import spawn
from tests.support.warm import start_warm
from titan_speech.exit_codes import EXIT_HUNG
from titan_speech.health.watchdog import HangReport, RankMark, hang_lines

LIMIT_SEC = 6
DEADLINE_SEC = 60.0
"""Start-up, two steps and the limit, on a busy machine; without the limit the ranks wait for ten minutes."""

STEPS = ("--training.target_tokens", "2048", "--training.global_batch_tokens", "512")
SETTINGS = (*STEPS, "--training.local_batch_packs", "1", "--comm.train_timeout_seconds", str(LIMIT_SEC))
LIMITS = ("--comm.init_timeout_seconds", "15")


def output_of(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch, world_size: int = 2) -> str:
    """What a run prints whose fault strikes; the launcher leaves the other ranks to themselves."""
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("WARM_WAITS", "1")
    finished = train(
        folder, *SETTINGS, *LIMITS, world_size=world_size, entry="tests/support/faulty_train.py", start=start_warm
    )
    assert finished.returncode != 0
    assert "Traceback" not in finished.output
    assert "damaged" not in finished.output
    return finished.output


def test_a_rank_that_was_just_killed_is_silent_and_one_that_leaves_is_not_blamed() -> None:
    mine = RankMark(3, "gradient norm and update", beats=4)
    killed, leaving = RankMark(3, "forward", beats=3), RankMark(3, "forward", beats=4, is_leaving=True)
    alive = [RankMark(3, "gradient norm and update", beats=beats) for beats in (3, 4)]
    earlier: list[RankMark | None] = [mine, killed, leaving, alive[0]]
    assert hang_lines(0, mine, [mine, killed, leaving, alive[1]], earlier) == [
        "rank 1: silent for about 2 s; last heartbeat in step 3, forward"
    ]


def wait_for_a_save(folder: Path) -> None:
    """Both ranks wait outside of any collective, and rank 1 falls silent."""
    hangs = HangReport(folder, lambda step: range(step, step + 1))
    hangs.begin(3.0, "loading")
    hangs.step_ended(3.0)
    if torch.distributed.get_rank() == 1:
        hangs.heartbeat.end()
    time.sleep(60)


def test_a_rank_that_falls_silent_while_others_wait_for_a_save_is_found_without_a_collective(tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessExitedException) as ended:
        spawn(2, wait_for_a_save, tmp_path)
    assert ended.value.exit_code == EXIT_HUNG
    report = (tmp_path / "health" / "hang.txt").read_text()
    assert "before the first step, step boundary; timed out: no heartbeat of rank 1 for 4 s\n  rank 1: silent" in report


def test_the_report_names_the_rank_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_of(tmp_path, "step-2:1:KILL", monkeypatch)
    report = (tmp_path / "health" / "hang.txt").read_text()
    assert "the run lost a rank. Rank 0 waited 0 s in step 2 (slots 2-3), " in report
    assert re.search(r"\n  rank 1: silent for about \d s; last heartbeat ", report)
    assert report in output


def test_the_death_of_rank_0_which_keeps_the_heartbeats_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output_of(tmp_path, "step-2:0:KILL", monkeypatch)
    report = (tmp_path / "health" / "hang.txt").read_text()
    assert "\n  rank 0: gone, and with it the heartbeats of all ranks" in report


@pytest.mark.parametrize("place", [pytest.param("groups", marks=pytest.mark.slow), "init"])
def test_a_rank_that_dies_in_start_up_gives_the_others_one_message(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = output_of(tmp_path, f"{place}:1:KILL", monkeypatch)
    assert output.count("titan_speech: rank 0 lost another rank during start-up") == 1
    assert "Exception ignored" not in output


@pytest.mark.slow
def test_ranks_without_a_launcher_whose_peers_never_come_end_with_one_message(tmp_path: Path) -> None:
    """As under srun: no agent ends them, and rank 0 waits for the others as they wait for it."""
    ranks = []
    for rank in (0, 1):  # each at a store of its own
        launcher = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        command = [sys.executable, "-m", "titan_speech.train", "--job.config_file", SMALL]
        command += ["--job.dump_folder", str(tmp_path / str(rank)), "--comm.init_timeout_seconds", "5"]
        environment = {**os.environ, **launcher, **address, "OMP_NUM_THREADS": "1"}
        ranks.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        for rank, process in enumerate(ranks):
            output, _ = process.communicate(timeout=300)
            assert process.returncode == EXIT_HUNG, output
            assert output.count(f"titan_speech: rank {rank}: not all of 2 ranks came to the store of rank 0") == 1, (
                output
            )
            assert "Traceback" not in output
    finally:
        for process in ranks:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["load", "read"])
def test_a_rank_that_dies_while_others_load_makes_no_checkpoint_damaged(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_well(tmp_path, *SETTINGS, "--training.target_tokens", "512", world_size=2, start=start_warm)
    output = output_of(tmp_path, f"{place}:1:KILL", monkeypatch)
    assert f"rank 1 gets SIGKILL at {place}" in output
    assert f"before the first step, loading step 1 of {tmp_path}/checkpoint; " in output
    assert "rank 1: " in output


def test_a_rank_stopped_at_a_step_boundary_ends_the_others_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "boundary-2:1:STOP")
    process = start_warm(tmp_path, *SETTINGS, world_size=3, entry="tests/support/faulty_train.py")
    try:
        workers, deadline = [], time.monotonic() + DEADLINE_SEC
        while len(workers) < 3 or len(children(process.pid)) > 1:
            workers = workers if len(workers) == 3 else children(process.pid)
            assert time.monotonic() < deadline, (tmp_path / "log.txt").read_text()[-4000:]
            time.sleep(0.1)
        (stopped,) = children(process.pid)
        assert stopped == workers[1]
        os.kill(stopped, signal.SIGKILL)
        assert process.wait(60) == EXIT_HUNG
    finally:
        kill(process)
    report = (tmp_path / "health" / "hang.txt").read_text()
    assert re.search(r"the run hangs. Rank [02] waited \d+ s in step 2 \(slots 2-3\), step boundary; ", report)
    assert re.search(r"\n  rank 1: silent for about \d+ s; last heartbeat in step [12], ", report)
