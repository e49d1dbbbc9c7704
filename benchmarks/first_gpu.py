"""All open questions about a GPU in one command: `python -m benchmarks.first_gpu --budget-sec 400 --output DIR`.

In: a budget in seconds and a folder. Out: DIR/steps/NAME.json of each step as soon as it is done, DIR/report.json and
DIR/report.txt after each, with tokens/s, MFU and memory next to estimate and published runs. Steps go in order of value
(first_gpu_steps.py), each in a process of its own with its own limit. Safe to cut at any time: the same command
continues with what is not done, and does again what failed. It needs no network, and runs on one GPU, the first.

    python -m benchmarks.first_gpu --list                      the steps and their limits
    python -m benchmarks.check --reports DIR/suite.json --write       the regression baseline of this device
    python -m benchmarks.first_gpu --debug --output DIR        the same logic with the debug model on a CPU
    titan-speech estimate ... --calibrate DIR/report.json      what was measured replaces what is assumed
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.record import Case, Figure, Machine, Report
from benchmarks.run import alone
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file
from titan_speech.utils.text_table import table_lines

MODULE = "benchmarks.first_gpu_steps"
REPORT, TABLE, SUITE = "report.json", "report.txt", "suite.json"
RESERVE_SEC = 5.0
"""Of the budget, for the last report."""


@dataclass(frozen=True)
class Step:
    """One question."""

    name: str
    what: str
    limit_sec: float
    least_sec: float
    """With less time left it is not begun."""


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    name: str
    status: str
    """done, failed, cut or left out."""
    sec: float
    figures: dict[str, Any]
    error: str = ""


Runner = Callable[[Step, float], Outcome]


def run_steps(
    steps: Sequence[Step],
    budget_sec: float,
    output: Path,
    runner: Runner,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run what is not done yet, and report after each step.

    Args:
        steps: in order of value.
        budget_sec: for all of them.
        output: folder of results; those that are done there are taken as they are.
        runner: runs a step within a number of seconds.
        clock: seconds.
        tell: takes a line of progress.

    Returns:
        The report.
    """
    began = clock()
    folder = output / "steps"
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {step.name: found for step in steps if (found := _read(folder / f"{step.name}.json")) is not None}
    report = _report(steps, outcomes, output)
    for step in steps:
        if step.name in outcomes and outcomes[step.name].status == "done":
            tell(f"{step.name}: done before")
            continue
        left_sec = budget_sec - (clock() - began) - RESERVE_SEC
        if left_sec < step.least_sec:
            tell(f"{step.name}: left out, {max(left_sec, 0):.0f} s left of at least {step.least_sec:.0f}")
            outcomes.setdefault(step.name, Outcome(step.name, "left out", 0.0, {}))
        else:
            tell(f"{step.name}: at most {min(step.limit_sec, left_sec):.0f} s")
            outcomes[step.name] = found = runner(step, min(step.limit_sec, left_sec))
            write_atomically(folder / f"{step.name}.json", json.dumps(found.__dict__, indent=1) + "\n")
            tell(f"{step.name}: {found.status}{f', {found.error}' if found.error else ''}")
        report = _report(steps, outcomes, output)
    return report


def run_in_process(step: Step, limit_sec: float, output: Path, debug: bool) -> Outcome:
    """Run a step in a process of its own, which is killed at the limit."""
    result = output / "work" / f"{step.name}.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    words = [sys.executable, "-m", MODULE, step.name, str(result), *(["--debug"] if debug else [])]
    began = time.monotonic()
    with (output / "work" / f"{step.name}.log").open("w") as log:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # which a step ends, should this process be killed
        )
        try:
            code = process.wait(limit_sec)
        except subprocess.TimeoutExpired:
            process.terminate()  # the step ends what it started
            try:
                process.wait(RESERVE_SEC)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            code = None
    sec = time.monotonic() - began
    figures = read_json_file(result) if result.exists() else {}
    if code == 0:
        return Outcome(step.name, "done", sec, figures)
    tail = (output / "work" / f"{step.name}.log").read_text(errors="replace").strip().splitlines()[-1:]
    error = f"took more than {limit_sec:.0f} s" if code is None else f"exit code {code}: {''.join(tail)[:200]}"
    return Outcome(step.name, "cut" if code is None else "failed", sec, figures, error)


def _read(path: Path) -> Outcome | None:
    """The outcome of an earlier start; a file that cannot be read is as if it were not there."""
    try:
        record = read_json_file(path)
        return Outcome(**record)
    except (OSError, ValueError, TypeError):
        return None


def _report(steps: Sequence[Step], outcomes: dict[str, Outcome], output: Path) -> dict[str, Any]:
    """Write report.json and report.txt of what is known so far."""
    known = [outcomes[step.name] for step in steps if step.name in outcomes]
    figures = {one.name: one.figures for one in known}
    efficiencies: dict[str, float] = {}
    for one in known:
        efficiencies |= one.figures.get("efficiencies", {})
    report = {
        "format": 1,
        "device": figures.get("environment", {}).get("device", "unknown"),
        "efficiencies": efficiencies,
        "scaled": scaled(figures),
        "float8_minus_bf16": float8_minus_bf16(figures),
        "steps": [one.__dict__ for one in known],
    }
    write_atomically(output / REPORT, json.dumps(report, indent=1) + "\n")
    write_atomically(output / TABLE, "\n".join(table(steps, outcomes)) + "\n")
    if "machine" in figures.get("environment", {}):
        suite_report(steps, outcomes).write(output / SUITE)
    return report


def suite_report(steps: Sequence[Step], outcomes: dict[str, Outcome]) -> Report:
    """What was measured in the form of the other suites, so that `benchmarks.check` can hold it."""
    cases = []
    for step in steps:
        one = outcomes.get(step.name)
        if one is not None and one.status == "done" and one.figures.get("rates"):
            rate = Figure.of("tokens_per_sec_per_gpu", "tokens/s", one.figures["rates"])
            memory = Figure.of("peak_memory_gb", "GB", [one.figures["memory_gib"] * 1.073741824])
            cases.append(Case(step.name, step.what, {}, (rate, memory)))
    environment = outcomes["environment"].figures
    seconds = sum(one.sec for one in outcomes.values())
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    note = "repeats are the steady steps of one run"
    machine = Machine(**environment["machine"])
    return Report("first_gpu", date, seconds, False, False, note, machine, tuple(cases), ())


def float8_minus_bf16(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Difference of the mean losses of the last steps by seed, in nats: what float8 costs, and how far it varies."""
    pairs = {"seed 0": ("pt_1b_8_float8", "pt_1b_8_none"), "seed 1": ("pt_1b_8_float8_seed1", "pt_1b_8_none_seed1")}
    losses = {seed: [figures.get(name, {}).get("loss") for name in names] for seed, names in pairs.items()}
    return {seed: float8 - bf16 for seed, (float8, bf16) in losses.items() if float8 is not None and bf16 is not None}


DEEP_LAYERS = 32


def scaled(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Tokens per second of all layers of the 8B, from runs of 4 and of 2: each layer takes the same time."""
    rates = [figures.get(f"pt_8b_{layers}_layers", {}).get("tokens_per_sec_per_gpu") for layers in (4, 2)]
    if not all(rates):
        return {}
    four, two = (1 / float(rate or 0) for rate in rates)  # seconds per token
    return {"pt_8b": 1 / (four + (DEEP_LAYERS - 4) * (four - two) / 2)} if four > two else {}


COLUMNS = ("tokens_per_sec_per_gpu", "mfu", "memory_gib", "estimated", "published")


def table(steps: Sequence[Step], outcomes: dict[str, Outcome]) -> list[str]:
    rows = [("step", "status", "s", "tokens/s", "MFU", "GiB", "estimated", "published", "also")]
    for step in steps:
        one = outcomes.get(step.name, Outcome(step.name, "not begun", 0.0, {}))
        rate, mfu, memory, estimated, published = (one.figures.get(name) for name in COLUMNS)
        hidden = (*COLUMNS, "efficiencies", "machine", "rates")
        rest = {name: value for name, value in one.figures.items() if name not in hidden}
        rows.append(
            (
                step.name,
                one.status,
                f"{one.sec:.0f}",
                "" if rate is None else f"{rate:,.0f}",
                "" if mfu is None else f"{mfu:.1%}",
                "" if memory is None else f"{memory:.1f}",
                "" if estimated is None else f"{estimated:,.0f}",
                "" if published is None else f"{published:,.0f}",
                one.error or ", ".join(f"{name} {_short(value)}" for name, value in list(rest.items())[:6]),
            )
        )
    return table_lines(rows, "<<>>>>>><")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:60]


def main() -> int:
    from benchmarks.first_gpu_steps import STEPS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-sec", type=float, default=400.0, help="for all steps (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/first_gpu"), help="folder (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=(), help="steps to run, in their order")
    parser.add_argument("--debug", action="store_true", help="the debug model on a CPU: the logic, no figures")
    parser.add_argument("--list", action="store_true", help="print the steps")
    args = parser.parse_args()
    unknown = set(args.only) - {step.name for step in STEPS}
    if unknown:
        parser.error(f"--only: no step {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in STEPS)}")
    steps = [step for step in STEPS if not args.only or step.name in args.only]
    if args.list:
        print("\n".join(table_lines([(s.name, f"{s.limit_sec:.0f} s", s.what) for s in steps], "<><")))
        return 0
    output = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with alone(output / "lock"):
            runner = partial(run_in_process, output=output, debug=args.debug)
            report = run_steps(steps, args.budget_sec, output, runner)
    except RuntimeError as error:
        print(f"benchmarks.first_gpu: {error}", file=sys.stderr)
        return 2
    print((output / TABLE).read_text(), end="")
    return 0 if all(one["status"] in ("done", "left out") for one in report["steps"]) else 1


if __name__ == "__main__":
    sys.exit(main())
