"""The first GPU's command: steps in order of value within a budget, cut and gone on with, on a fake clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import first_gpu
from benchmarks.check import judged, read_baseline, write_baseline
from benchmarks.first_gpu import Outcome, Step, run_in_process, run_steps, scaled
from benchmarks.first_gpu_steps import STEPS
from benchmarks.first_gpu_training import train
from benchmarks.machine import ROOT
from benchmarks.record import Machine as RecordedMachine
from benchmarks.record import read_report
from titan_speech.estimate.efficiencies import calibrated

THREE = (Step("first", "", 100, 20), Step("second", "", 100, 50), Step("third", "", 30, 10))


class Machine:
    """A clock, and steps that take the seconds they are given."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.seconds, self.begun = 0.0, seconds, list[tuple[str, float]]()

    def clock(self) -> float:
        return self.now

    def run(self, step: Step, limit_sec: float) -> Outcome:
        self.begun.append((step.name, limit_sec))
        taken = min(self.seconds[step.name], limit_sec)
        self.now += taken
        is_cut = self.seconds[step.name] > limit_sec
        figures: dict[str, Any] = {} if is_cut else {"tokens_per_sec_per_gpu": 1000.0, "mfu": 0.5}
        return Outcome(step.name, "cut" if is_cut else "done", taken, figures)


def go(machine: Machine, output: Path, budget_sec: float) -> dict[str, str]:
    report = run_steps(THREE, budget_sec, output, machine.run, machine.clock, tell=lambda line: None)
    assert report == json.loads((output / "report.json").read_text())
    return {one["name"]: one["status"] for one in report["steps"]}


def test_all_steps_run_in_their_order_within_their_limits(tmp_path: Path) -> None:
    machine = Machine(first=30, second=60, third=5)
    assert go(machine, tmp_path, 400) == {"first": "done", "second": "done", "third": "done"}
    assert machine.begun == [("first", 100), ("second", 100), ("third", 30)]
    assert "1,000" in (tmp_path / "report.txt").read_text()


def test_a_step_that_cannot_end_in_time_leaves_its_time_to_a_shorter_one(tmp_path: Path) -> None:
    machine = Machine(first=90, second=60, third=5)
    assert go(machine, tmp_path, 120) == {"first": "done", "second": "left out", "third": "done"}
    assert machine.now <= 120


def test_a_later_start_does_what_is_not_done_and_again_what_was_cut(tmp_path: Path) -> None:
    assert go(Machine(first=30, second=500, third=5), tmp_path, 100) == {
        "first": "done",
        "second": "cut",
        "third": "left out",
    }
    again = Machine(first=30, second=60, third=5)
    assert set(go(again, tmp_path, 200).values()) == {"done"}
    assert [name for name, _ in again.begun] == ["second", "third"]


def test_a_kill_between_steps_loses_nothing_that_was_done(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    machine = Machine(first=30, second=60, third=5)

    def killed(step: Step, limit_sec: float) -> Outcome:
        if step.name == "second":
            raise Killed
        return machine.run(step, limit_sec)

    with pytest.raises(Killed):
        run_steps(THREE, 400, tmp_path, killed, machine.clock, tell=lambda line: None)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(one["name"], one["status"]) for one in report["steps"]] == [("first", "done")]
    (tmp_path / "steps" / "first.json").write_text("{ cut")  # a file that cannot be read is measured again
    assert set(go(Machine(first=1, second=1, third=1), tmp_path, 400).values()) == {"done"}


def test_the_report_refits_an_estimate(tmp_path: Path) -> None:
    measured = {"environment": {"device": "h100"}, "peaks": {"efficiencies": {"products": 0.75, "memory": 0.9}}}
    steps = tuple(Step(name, "", 10, 1) for name in measured)
    run_steps(
        steps,
        100,
        tmp_path,
        lambda step, sec: Outcome(step.name, "done", 1.0, measured[step.name]),
        tell=lambda _: None,
    )
    assert calibrated(tmp_path / "report.json", "h100").products == 0.75


def test_eight_billion_are_scaled_from_four_and_two_layers() -> None:
    head, layer = 1e-5, 2e-6  # seconds per token
    rates = {f"pt_8b_{n}_layers": {"tokens_per_sec_per_gpu": 1 / (head + n * layer)} for n in (2, 4)}
    assert scaled(rates)["pt_8b"] == pytest.approx(1 / (head + 32 * layer))
    assert scaled({}) == {}


def test_what_was_measured_is_held_by_the_regression_check(tmp_path: Path) -> None:
    machine = RecordedMachine("NVIDIA H100 80GB HBM3", True, 1, 16, 16, 0.0, 0.0, {"torch": "2.14.1"}, "abc")
    measured: dict[str, dict[str, Any]] = {
        "environment": {"device": "h100", "machine": asdict(machine)},
        "pt_1b_8": {"rates": [60_000.0, 61_000.0, 60_500.0], "memory_gib": 70.0, "loss": 3.0},
        "pt_1b_8_none": {"rates": [64_000.0], "memory_gib": 75.0, "loss": 3.1},
        "pt_1b_8_float8": {"rates": [70_000.0], "memory_gib": 70.0, "loss": 3.14},
    }
    steps = tuple(Step(name, "", 10, 1) for name in (*measured, "pt_1b_8_float8_seed1"))

    def run(step: Step, sec: float) -> Outcome:
        return Outcome(step.name, "done" if step.name in measured else "cut", 1.0, measured.get(step.name, {}))

    report = run_steps(steps, 100, tmp_path, run, tell=lambda _: None)
    assert report["float8_minus_bf16"] == {"seed 0": pytest.approx(0.04)}
    sound = read_report(tmp_path / "suite.json")
    write_baseline(tmp_path / "h100.json", [sound])
    held = read_baseline(tmp_path / "h100.json", sound.machine)
    assert not any(one.is_lost for one in judged(held, [sound]))
    measured["pt_1b_8"]["rates"] = [55_000.0] * 3
    run_steps(steps, 100, tmp_path / "slower", run, tell=lambda _: None)
    lost = [one.entry.name for one in judged(held, [read_report(tmp_path / "slower" / "suite.json")]) if one.is_lost]
    assert lost == ["pt_1b_8.tokens_per_sec_per_gpu"]


def test_a_training_that_is_started_again_counts_its_own_compilations_alone(tmp_path: Path) -> None:
    before, log = signal.getsignal(signal.SIGTERM), tmp_path / "run.log"
    log.write_text("Recompiling function of an earlier start")
    try:
        with pytest.raises(RuntimeError, match="training ended with 2"):
            train("no-such-file.toml", {}, debug=True, folder=tmp_path / "run")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "no-such-file" in log.read_text()
    assert "Recompiling" not in log.read_text()


SLOW_STEP = """
import sys, time
print("begun", flush=True)
time.sleep(60)
"""


def test_a_process_that_takes_too_long_is_ended_and_one_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_step.py").write_text(SLOW_STEP)
    monkeypatch.setattr(first_gpu, "ROOT", tmp_path)
    monkeypatch.setattr(first_gpu, "MODULE", "slow_step")
    cut = run_in_process(Step("cut", "", 1, 1), 1.0, tmp_path, debug=False)
    assert (cut.status, cut.figures) == ("cut", {})
    (tmp_path / "slow_step.py").write_text("import sys\nsys.exit('no memory left')")
    failed = run_in_process(Step("failed", "", 1, 1), 30.0, tmp_path, debug=False)
    assert failed.status == "failed"
    assert "no memory left" in failed.error


def test_the_steps_fit_the_goal_of_value_first() -> None:
    names = [step.name for step in STEPS]
    assert names[:4] == ["environment", "attention", "peaks", "pt_1b_8"]
    assert len(set(names)) == len(names)
    assert all(step.least_sec <= step.limit_sec for step in STEPS)
    assert sum(step.least_sec for step in STEPS[:7]) < 400


STEP = """
import subprocess, sys, time
from benchmarks.first_gpu_steps import end_with_parent
end_with_parent()
training = subprocess.Popen(["sleep", "300"])
print(training.pid, flush=True)
training.wait()
"""
COMMAND = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"


def test_a_killed_command_leaves_no_step_and_no_training_behind() -> None:
    process = subprocess.Popen([sys.executable, "-c", COMMAND, STEP], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    training = Path("/proc", process.stdout.readline().strip())
    assert training.exists()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while _is_alive(training):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.stdout.close()


def _is_alive(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
