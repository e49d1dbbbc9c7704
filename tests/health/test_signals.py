"""Signals: all ranks save at one step and leave with a code; the run that goes on is the one that was not stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import ROOT, SMALL, RunProcess, children, figures, kill, losses, start_run, train_well
from tests.support.warm import start_warm
from titan_speech.checkpoint.commit import committed_steps
from titan_speech.exit_codes import EXIT_RESTART

STEPS = ("--training.target_tokens", "6144", "--training.global_batch_tokens", "512")
SETTINGS = (*STEPS, "--training.local_batch_packs", "1", "--checkpoint.cadence.0.every", "100")
LISTENER = """
import sys, time
from titan_speech.health.signals import StopSignals
StopSignals(float(sys.argv[1]), lambda name: print("asked by", name, flush=True), lambda: "step-7 is complete").listen()
print("ready", flush=True)
time.sleep(60)
"""


def wait_for_step(folder: Path, process: RunProcess, step: int) -> None:
    while step not in figures(folder):
        assert process.poll() is None, (folder / "log.txt").read_text()[-8000:]
        time.sleep(0.05)


def stopped_run(folder: Path) -> int:
    """Code of a run of two ranks of which one got SIGUSR1."""
    process = start_warm(folder, *SETTINGS, world_size=2)
    try:
        wait_for_step(folder, process, 2)
        os.kill(children(process.pid)[1], signal.SIGUSR1)
        return process.wait(120)
    finally:
        kill(process)


def test_a_signal_to_one_rank_saves_on_all_at_one_step(tmp_path: Path) -> None:
    assert stopped_run(tmp_path) == EXIT_RESTART
    log = (tmp_path / "log.txt").read_text()
    assert "rank 1 got SIGUSR1: saving at the next step boundary" in log
    assert "Traceback" not in log
    assert committed_steps(tmp_path / "checkpoint") == [max(figures(tmp_path))]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    stopped_run(tmp_path / "stopped")
    train_well(tmp_path / "stopped", *SETTINGS, world_size=2, start=start_warm)
    expected = losses(train_well(tmp_path / "whole", *SETTINGS, world_size=2, start=start_warm))
    assert losses(figures(tmp_path / "stopped")) == expected


@pytest.mark.slow
def test_torchrun_passes_a_preemption_on_and_the_run_is_saved(tmp_path: Path) -> None:
    process = start_run(tmp_path, *SETTINGS, world_size=2)
    try:
        wait_for_step(tmp_path, process, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) != 0
    finally:
        kill(process)
    log = (tmp_path / "log.txt").read_text()
    assert "got SIGTERM: saving at the next step boundary" in log
    assert "Traceback" not in log.split("torch/distributed/elastic")[0]  # torchrun's own comes after
    (stopped_at,) = committed_steps(tmp_path / "checkpoint")
    assert stopped_at == max(figures(tmp_path))


def test_alone_without_torchrun_the_process_itself_ends_with_the_code(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "titan_speech.train",
        "--job.config_file",
        SMALL,
        "--job.dump_folder",
        str(tmp_path),
    ]
    process = subprocess.Popen([*command, *SETTINGS], cwd=ROOT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for_step(tmp_path, process, 1)
        process.terminate()
        assert process.wait(120) == EXIT_RESTART
    finally:
        kill(process)
    assert committed_steps(tmp_path / "checkpoint") == [max(figures(tmp_path))]


def listener(within_sec: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER, str(within_sec)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_same_signal_from_two_sides_is_one_and_a_second_one_leaves_at_once() -> None:
    process = listener(within_sec=50)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(2.5)
    assert process.poll() is None
    process.send_signal(signal.SIGUSR1)
    said, errors = process.communicate(timeout=20)
    assert (process.returncode, said) == (EXIT_RESTART, "asked by SIGTERM\n")
    assert "got SIGTERM and then SIGUSR1: exiting at once, without saving; step-7 is complete" in errors


def test_a_second_ctrl_c_exits_at_once_with_the_code_a_shell_expects() -> None:
    process = listener(within_sec=50)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.8)
    said, errors = process.communicate(timeout=20)
    assert (process.returncode, said) == (128 + signal.SIGINT, "asked by Ctrl-C\n")
    assert "got Ctrl-C again: exiting at once, without saving; step-7 is complete" in errors


def test_a_rank_that_cannot_save_in_time_leaves_without() -> None:
    process = listener(within_sec=0.5)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == EXIT_RESTART
    assert "could not save within 0.5 s of SIGUSR1" in errors
