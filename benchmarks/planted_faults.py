"""Faults planted in a model that learns 32 samples by heart: when a sound run speaks, and when each fault is seen.

    python -m benchmarks.planted_faults --json benchmarks/results/planted_faults_32.json

The slow tests do the same with four samples in minutes. Six runs: sound with three seeds, a wrong prompt template, a
stop token that is never trained, a learning rate ten times too high. Each is written when it has ended, and one that is
in the file is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import load, this_machine, write_results
from tests.slow.test_planted_faults import Scale, checks, flags, speaks_from, trained
from tests.support.runs import RunProcess, figures, kill, start_run

SCALE = Scale(num_samples=32, codes=(30, 60), steps=200, every=20, packs=4, seq_len=256, num_prompts=8)
AFTER_CHECK_SEC = 3.0
"""In which a check that was logged raises its flag."""
RATE = ("--optimizer.lr", "4e-2", "--lr_scheduler.end_lr", "2e-3")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sound": ("", ()),
    "template": ("template", ()),
    "stop": ("stop", ()),
    "rate": ("", RATE),
    "sound, seed 1": ("", ("--job.seed", "1")),
    "sound, seed 2": ("", ("--job.seed", "2")),
}


class Cut:
    """A run that ends after a check: what a fault does later is not asked."""

    def __init__(self, process: RunProcess, folder: Path, last_check: int) -> None:
        self._process, self._folder, self._last_check = process, folder, last_check

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or float("inf"))
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("the run", timeout or 0)
            is_over = self._last_check in checks(self._folder)
            time.sleep(AFTER_CHECK_SEC)
            if is_over:
                kill(self._process)
                return 0
        return self._process.wait()


def run(name: str, scale: Scale, folder: Path, last_check: int | None) -> dict[str, Any]:
    """Train once; the measures of each check, what was flagged, and the first check from which on the model speaks."""
    fault, overrides = RUNS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as monkeypatch:

        def start(*args: Any, **kwargs: Any) -> RunProcess:
            process = start_run(*args, **kwargs)
            return process if last_check is None else Cut(process, folder, last_check)

        finished = trained(folder, monkeypatch, fault, *overrides, scale=scale, start=start)
    if finished.returncode:
        raise SystemExit(finished.output[-4000:])
    found, losses = checks(folder), figures(folder / "run")
    return {
        "loss": round(losses[max(losses)]["loss"], 4),
        "checks": {step: {measure: round(value, 4) for measure, value in one.items()} for step, one in found.items()},
        "flagged": flags(folder),
        "ended_after_check": last_check,
        "speaks_from_step": speaks_from(flags(folder)),
        "duration_sec": round(time.monotonic() - began),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file to write, and to continue")
    parser.add_argument("--folder", type=Path, help="where the runs are kept (default: they are removed)")
    parser.add_argument("--steps", type=int, default=SCALE.steps, help=f"steps (default: {SCALE.steps})")
    parser.add_argument("--every", type=int, default=SCALE.every, help=f"between checks (default: {SCALE.every})")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="runs to do (default: all)")
    parser.add_argument("--last-check", type=int, help="step after whose check a run ends (default: the last one)")
    args = parser.parse_args()
    scale = replace(SCALE, steps=args.steps, every=args.every)
    found = json.loads(args.json.read_text()) if args.json.exists() else {}
    before = load()
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.only:
            if name in found.get("runs", {}):
                continue
            one = run(
                name,
                scale,
                (args.folder or Path(temporary)) / name.replace(", ", "-").replace(" ", "-"),
                args.last_check,
            )
            found = {
                "machine": asdict(this_machine(before)),
                "scale": asdict(scale),
                "runs": {**found.get("runs", {}), name: one},
            }
            write_results(args.json, found)
            print(f"{name}: speaks from step {one['speaks_from_step']}; flagged: {one['flagged']}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
