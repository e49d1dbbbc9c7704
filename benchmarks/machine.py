"""The machine a suite runs on, without its name.

In: nothing. Out: `Machine`. Absolute values are valid for one device only; the report names it.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.record import Machine

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
