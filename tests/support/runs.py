"""Real training runs for tests: torchrun in a process group of its own, stopped or killed as the test asks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parents[2]
SMALL = "tests/assets/small.toml"
TRAIN = "titan_speech.train"
TIMEOUT_SEC = 1500


class RunProcess(Protocol):
    """The launcher of a run; a `Popen` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


@dataclass(frozen=True)
class Finished:
    """A run that ended, with its output."""

    returncode: int
    output: str


def start_run(
    folder: Path,
    *overrides: str,
    world_size: int = 1,
    config: str = SMALL,
    entry: str = TRAIN,
    launch: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start torchrun, with options `launch`, of `entry`, a module or a script; its output is in `folder`/log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world_size)),
        *("--master-addr", "127.0.0.1", "--master-port", str(free_port()), *launch),
        *(("-m", entry) if entry == TRAIN else (entry,)),
        *("--job.config_file", config, "--job.dump_folder", str(folder)),
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def train(
    folder: Path,
    *overrides: str,
    world_size: int = 1,
    config: str = SMALL,
    entry: str = TRAIN,
    start: Callable[..., RunProcess] = start_run,
) -> Finished:
    """Run to the end; `start` may be `tests.support.warm.start_warm`."""
    process = start(folder, *overrides, world_size=world_size, config=config, entry=entry)
    try:
        code = process.wait(TIMEOUT_SEC)
    finally:
        kill(process)
    return Finished(code, (folder / "log.txt").read_text(errors="replace"))


def train_well(
    folder: Path,
    *overrides: str,
    world_size: int = 1,
    config: str = SMALL,
    start: Callable[..., RunProcess] = start_run,
) -> dict[int, dict]:
    """Run to the end, which must be a good one; the figures of each step."""
    finished = train(folder, *overrides, world_size=world_size, config=config, start=start)
    assert finished.returncode == 0, finished.output[-8000:]
    return figures(folder)


def train_and_kill_after(
    folder: Path,
    step: int,
    *overrides: str,
    world_size: int = 1,
    config: str = SMALL,
    start: Callable[..., RunProcess] = start_run,
) -> None:
    """Run until `step` is logged, then `kill -9` every process of the run."""
    process = start(folder, *overrides, world_size=world_size, config=config)
    deadline = time.monotonic() + TIMEOUT_SEC
    try:
        while step not in figures(folder):
            log = (folder / "log.txt").read_text(errors="replace")
            assert process.poll() is None, f"the run ended before step {step}:\n{log[-8000:]}"
            assert time.monotonic() < deadline, f"step {step} did not come in {TIMEOUT_SEC} s:\n{log[-8000:]}"
            time.sleep(0.05)
    finally:
        kill(process)


def kill(process: RunProcess) -> None:
    """kill -9 of torchrun and of its workers, which it starts in sessions of their own."""
    for pid in [process.pid, *_descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def children(pid: int) -> list[int]:
    """Processes that `pid` started; empty when it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _descendants(pid: int) -> list[int]:
    """Processes below `pid`."""
    started = children(pid)
    return started + [below for child in started for below in _descendants(child)]


def figures(folder: Path) -> dict[int, dict]:
    """metrics.jsonl by step; of two lines with one step the later counts."""
    return {record["step"]: record for record in metrics_lines(folder) if "event" not in record}


def metrics_lines(folder: Path) -> list[dict]:
    """metrics.jsonl as it stands, events included; a line that is still being written is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


LOSS_TOLERANCE = 1e-5
"""Relative, between layouts in fp32: sums are added in another order; the largest gap measured is 1e-6."""

NORM_TOLERANCE = 3e-3
"""Relative, of gradient norms: a CPU sums 6.7 M squares in fp32, and half of them at a time gives another rounding; the
largest gap measured is 1.4e-3, at losses that agree to 2e-7."""


def assert_close(found: dict[int, dict[str, float]], expected: dict[int, dict[str, float]]) -> None:
    """The same steps with the same groups, losses and norms within the tolerances."""
    assert sorted(found) == sorted(expected)
    for step, figures_of_step in expected.items():
        assert found[step].keys() == figures_of_step.keys(), step
        for name, value in figures_of_step.items():
            tolerance = 0 if "tokens" in name else NORM_TOLERANCE if name == "grad_norm" else LOSS_TOLERANCE
            gap = abs(found[step][name] - value) / max(abs(value), 1e-30)
            assert gap <= tolerance, f"step {step}, {name}: {found[step][name]} instead of {value}, gap {gap:.1e}"


def losses(figures_of_run: dict[int, dict]) -> dict[int, dict[str, float]]:
    """What must not depend on how a run was cut: losses and tokens by group, gradient norms, learning rates."""
    kept = ("loss", "grad_norm", "lr", "tokens_seen", "trained_tokens/")
    return {
        step: {name: value for name, value in record.items() if name.startswith(kept)}
        for step, record in figures_of_run.items()
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
