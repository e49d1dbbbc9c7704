"""Training runs whose processes are forked from one that has imported everything: they start in a second, not in ten.

In: what `tests.support.runs.start_run` takes. Out: the same run, of real processes that can be killed, under a launcher
that does what torchrun does: when one process has failed it ends the others. Its own code is that of the first that
failed. For tests that start many runs; what torchrun itself does with a run is left to tests that start it.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.runs import ROOT, SMALL, TRAIN, free_port

LEAVE_SEC = 30.0
"""From the failure of one process until the others are killed."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.support.warm_imports"])


class WarmRun:
    """A run's launcher; as much of a `Popen` as a `RunProcess` has."""

    def __init__(self, folder: Path, entry: str, arguments: list[str], world_size: int) -> None:
        self._launcher = _forks.Process(
            target=_launch, args=(folder / "log.txt", entry, arguments, dict(os.environ), world_size), daemon=True
        )
        self._launcher.start()
        assert self._launcher.pid is not None
        self.pid = self._launcher.pid

    @property
    def returncode(self) -> int | None:
        return self._launcher.exitcode

    def poll(self) -> int | None:
        return self._launcher.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._launcher.join(timeout)
        code = self._launcher.exitcode
        if code is None:
            assert timeout is not None, "a launcher that was waited for has ended"
            raise subprocess.TimeoutExpired(f"run {self.pid}", timeout)
        return code


def start_warm(folder: Path, *overrides: str, world_size: int = 1, config: str = SMALL, entry: str = TRAIN) -> WarmRun:
    """As `start_run` without options of torchrun; with WARM_WAITS set the launcher leaves the others to themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").touch()
    arguments = ["--job.config_file", config, "--job.dump_folder", str(folder), *overrides]
    return WarmRun(folder, entry, arguments, world_size)


def _launch(log: Path, entry: str, arguments: list[str], environment: dict[str, str], world_size: int) -> None:
    """In a process of its own: forks the workers, and leaves with their code."""
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(number, stream)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GROUP_RANK": "0"}
    meeting["TORCHELASTIC_RUN_ID"] = "warm"  # by which workers know that a launcher started them
    workers = set()
    for rank in range(world_size):
        worker = os.fork()
        if not worker:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            os.environ.update({**meeting, **{name: str(value) for name, value in place.items()}})
            _work(entry, arguments)
        workers.add(worker)
    sys.exit(_code_of(workers))


def _work(entry: str, arguments: list[str]) -> None:
    """As `python -m entry`, which leaves by SystemExit."""
    import torch

    multiprocessing.current_process().daemon = False  # a loader may start processes of its own
    torch.set_num_threads(1)  # makes torch's thread pool anew, for which threads of its first backward pass would race
    sys.argv = [entry, *arguments]
    if entry == TRAIN:
        runpy.run_module(entry, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(entry, run_name="__main__")
    sys.exit(0)


def _code_of(workers: set[int]) -> int:
    """0 when all ended well; of others the first."""
    code, deadline = 0, float("inf")
    while workers:
        worker, status = os.waitpid(-1, os.WNOHANG)
        if worker:
            workers.discard(worker)
            if status and not code:
                code, deadline = os.waitstatus_to_exitcode(status) & 0xFF, time.monotonic() + LEAVE_SEC
                if "WARM_WAITS" not in os.environ:
                    _signal(workers, signal.SIGTERM)
        elif time.monotonic() > deadline:
            _signal(workers, signal.SIGKILL)
        time.sleep(0.01)
    return code


def _signal(workers: set[int], number: signal.Signals) -> None:
    for worker in workers:
        os.kill(worker, number)
