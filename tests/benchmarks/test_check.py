"""The alarm: the sound build passes the baseline of the repository, deliberately slowed ones do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT

pytestmark = pytest.mark.slow


def check(folder: Path, suite: str, ours: str, *cases: str) -> subprocess.CompletedProcess[str]:
    """A quick run of a suite with that build as ours, judged by the baseline of CPUs."""
    report = folder / f"{suite}.json"
    run = [sys.executable, "-m", "benchmarks.run", suite, "--quick", "--ours", ours, "--json", str(report)]
    subprocess.run([*run, "--only", *cases], cwd=ROOT, check=True)
    judge = [sys.executable, "-m", "benchmarks.check", "--reports", str(report)]
    return subprocess.run(judge, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_sound_build_passes(tmp_path: Path) -> None:
    judged = check(tmp_path, "train_step", "benchmarks.loops.ours", "debug_cpu")
    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_a_loader_that_sleeps_is_caught(tmp_path: Path) -> None:
    judged = check(tmp_path, "train_step", "tests.support.slowed_ours", "debug_cpu")
    assert judged.returncode == 1, judged.stdout + judged.stderr
    (line,) = (line for line in judged.stdout.splitlines() if line.startswith("train_step overhead_over_torchtitan"))
    assert line.rstrip().endswith("LOST")


def test_compilation_that_is_lost_is_caught(tmp_path: Path) -> None:
    judged = check(tmp_path, "sft_packing", "tests.support.eager_ours", "ours_compiled")
    assert judged.returncode == 1, judged.stdout + judged.stderr
    (line,) = (line for line in judged.stdout.splitlines() if "ours_compiled.compiled_graphs" in line)
    assert line.rstrip().endswith("LOST")
