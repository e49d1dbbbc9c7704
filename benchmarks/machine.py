"""The machine a benchmark runs on, without its name, and what all benchmarks ask of it.

In: nothing. Out: `Machine`: absolute values are valid for one device only, and the report names it. Seconds of a call,
peak memory of a process, a free port, and results as JSON.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.record import Machine
from titan_speech.utils.files import write_atomically

PACKAGES = ("torch", "torchtitan", "torchao", "transformers", "accelerate", "numpy", "pyarrow")
ROOT = Path(__file__).resolve().parent.parent
_SAME_GPU = re.compile(r"nvidia|\d+gb|hbm\d\w?|sxm\d?")


def load() -> float:
    return os.getloadavg()[0]


def this_machine(load_before: float) -> Machine:
    import torch

    is_gpu = torch.cuda.is_available()
    return Machine(
        device=torch.cuda.get_device_name() if is_gpu else f"cpu {os.uname().machine}",
        is_gpu=is_gpu,
        num_gpus=torch.cuda.device_count() if is_gpu else 0,
        cores=os.cpu_count() or 0,
        num_threads=torch.get_num_threads(),
        load_before=load_before,
        load_after=load(),
        versions=versions(),
        git_revision=git_revision(),
    )


def device_key(machine: Machine) -> str:
    """As files of baselines are called: cpu, h100, ..."""
    return key_of(machine.device)


def key_of(device: str) -> str:
    """A GPU's name without maker, memory and SXM socket. What a PCIe or NVL card calls itself stays: it has another
    peak."""
    words = [word for word in re.split(r"[\s-]+", device.lower()) if not _SAME_GPU.fullmatch(word)]
    return "cpu" if words[0] == "cpu" else "-".join(words)


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_revision() -> str:
    """Short revision, with a + if files differ from it."""
    revision = _git("rev-parse", "--short", "HEAD") or "unknown"
    return revision + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write_results(path: Path, content: object) -> None:
    """Write results, whole or not at all."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def memory_bytes(field: str, pid: int | str = "self") -> int:
    """Resident memory of a process from /proc: `VmRSS` now, or `VmHWM`, the most so far; 0 if it has ended.

    `getrusage` and `wait4` may give the peak of the process that started it.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def seconds(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    run()
    return clock() - began
