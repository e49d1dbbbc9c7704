"""Workers whose launcher is killed save and leave by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import ROOT, RunProcess, children, figures, start_run
from tests.support.warm import start_warm
from titan_speech.checkpoint.commit import committed_steps

SETTINGS = (
    *("--training.target_tokens", "51200", "--training.global_batch_tokens", "512"),
    *("--training.local_batch_packs", "1", "--checkpoint.cadence.0.every", "1000"),
)
LEAVE_SEC = 10.0

LAUNCHER = """
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, flush=True)
worker.wait()
"""
WORKER = """
import signal, sys, time
from titan_speech.health.signals import stop_with_launcher
def stop(*_):
    print("x" * 100_000, flush=True)  # to a pipe that nobody reads any more
    open(PATH, "w").write("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
stop_with_launcher()
print("ready", flush=True)
time.sleep(60)
open(PATH, "w").write("orphan")
"""


def wait_until_gone(pids: list[int], within_sec: float) -> None:
    deadline = time.monotonic() + within_sec
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def orphan(folder: Path, environment: dict[str, str]) -> int:
    """A worker whose launcher, which read its output, was killed."""
    worker = WORKER.replace("PATH", repr(str(folder / "said")))
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, worker], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    return pid


def test_a_worker_whose_launcher_is_killed_gets_sigterm_and_can_still_print(tmp_path: Path) -> None:
    wait_until_gone([orphan(tmp_path, {"TORCHELASTIC_RUN_ID": "test"})], LEAVE_SEC)
    assert (tmp_path / "said").read_text() == "saved"


@pytest.mark.skipif(b"python" in Path("/proc/1/cmdline").read_bytes(), reason="orphans are adopted by a launcher")
def test_a_worker_whose_launcher_died_before_it_looked_leaves_too(tmp_path: Path) -> None:
    worker = WORKER.replace("PATH", repr(str(tmp_path / "said"))).replace("def stop(", "time.sleep(0.5)\ndef stop(")
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=2).pid)"
    launched = subprocess.run(
        [sys.executable, "-c", code, worker],
        cwd=ROOT,
        env={**os.environ, "TORCHELASTIC_RUN_ID": "test"},
        capture_output=True,
        text=True,
        check=True,
    )
    wait_until_gone([int(launched.stdout)], LEAVE_SEC)
    assert (tmp_path / "said").read_text() == "saved"


def test_a_process_without_a_launcher_outlives_its_shell(tmp_path: Path) -> None:
    pid = orphan(tmp_path, {})
    time.sleep(1.5)
    assert Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "said").exists()
    os.kill(pid, signal.SIGKILL)


def kill_launcher(folder: Path, process: RunProcess, world_size: int) -> None:
    """Kill -9 of the launcher alone, some steps in: the workers are gone in time, and their last step is saved."""
    workers = []
    try:
        while max(figures(folder), default=0) < 3:
            assert process.poll() is None, (folder / "log.txt").read_text()[-8000:]
            time.sleep(0.05)
        workers = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        assert len(workers) == world_size
        wait_until_gone(workers, LEAVE_SEC)
    finally:
        for pid in workers:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)
    log = (folder / "log.txt").read_text()
    assert log.count("was left by its launcher") == world_size
    assert "Traceback" not in log
    assert committed_steps(folder / "checkpoint") == [max(figures(folder))]


def test_workers_save_and_leave_when_their_launcher_is_killed(tmp_path: Path) -> None:
    kill_launcher(tmp_path, start_warm(tmp_path, *SETTINGS, world_size=2), 2)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_workers_save_and_leave_when_torchrun_is_killed(tmp_path: Path, world_size: int) -> None:
    kill_launcher(tmp_path, start_run(tmp_path, *SETTINGS, world_size=world_size), world_size)
