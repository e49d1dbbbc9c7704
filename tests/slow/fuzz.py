"""Fuzzing: everything that is read from outside, damaged in ways a hostile writer would choose.

    python -m tests.slow.fuzz --budget-sec 3600 --seed 1 --keep outputs/fuzz

In: a budget and a seed. Out: for each target how many cases ran and what was found, one line per fault with the number
of its first case; the input of that case is kept. Exit code 1 if anything was found. What must hold is in
fuzz_guard.py. A case depends on the target, the seed and its number alone: `--only TARGET --case N` runs it again.

Targets run in turn, each in a process of its own, so that a crash ends one slice and not the run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import json
import os
import pkgutil
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SLICE_SEC = 60
MAX_NUM_KEPT = 40


def all_targets() -> dict[str, Any]:
    """By name; targets of one format are numbered."""
    from tests.slow import fuzz_align, fuzz_artifacts, fuzz_evaluation, fuzz_inputs, fuzz_runs

    found: dict[str, Any] = {}
    modules = (fuzz_artifacts, fuzz_inputs, fuzz_runs, fuzz_evaluation, fuzz_align)
    for target in itertools.chain(*(module.TARGETS for module in modules)):
        name = target.name if target.name not in found else f"{target.name}-2"
        found[name] = target
    return found


def run_slice(name: str, seed: int, first: int, budget_sec: float, keep: Path, only: bool) -> None:
    """Cases from number `first` on, until the time is up; one line of JSON each on stdout for what was found."""
    from tests.slow.fuzz_guard import Guard, limit_memory

    target, report = all_targets()[name], os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as base:
        place = Path(base)
        os.environ["TMPDIR"] = tempfile.tempdir = str(place / "case" / "tmp")
        (place / "seed").mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            target.prepare(place / "seed")
        _import_everything()
        for number in range(6):  # what is imported now counts neither as memory nor as a program that was started
            _make_case(place, target, random.Random(number), is_damaged=False)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                target.read(random.Random(number), place / "case")
        _make_case(place, target, random.Random(0), is_damaged=False)
        guard = Guard()
        if found := guard.run(place, lambda: target.read(random.Random(0), place / "case")):
            print(
                json.dumps({"case": -1, "kind": f"the undamaged input: {found.kind}", "detail": found.detail}),
                file=report,
            )
            return
        limit_memory()
        deadline = time.monotonic() + budget_sec
        for number in itertools.count(first):
            rng = random.Random(f"{name} {seed} {number}")
            _make_case(place, target, rng)
            print(json.dumps({"begun": number}), file=report, flush=True)
            found = guard.run(place, lambda rng=rng: target.read(rng, place / "case"))
            if found is not None:
                _keep(place / "case", keep / name / str(number))
                line = {"case": number, "kind": found.kind, "detail": found.detail}
                print(json.dumps(line), file=report, flush=True)
            if only or time.monotonic() > deadline:
                return


def _import_everything() -> None:
    """All modules of the package: an import in the middle of a case would count as its memory, and fail."""
    import titan_speech

    for module in pkgutil.walk_packages(titan_speech.__path__, "titan_speech."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _make_case(place: Path, target: Any, rng: random.Random, is_damaged: bool = True) -> None:
    """A fresh copy of the valid input, damaged, beside the file that nobody may touch."""
    for folder in ("case", "outside"):
        shutil.rmtree(place / folder, ignore_errors=True)
    shutil.copytree(place / "seed", place / "case")
    (place / "case" / "tmp").mkdir()
    (place / "outside").mkdir()
    victim = place / "outside" / "victim"
    victim.write_text("a file that no input may name\n")
    if is_damaged:
        from tests.slow.fuzz_mutate import OUTSIDE

        target.damage(rng, place / "case")
        for path in (place / "case").rglob("*"):
            if path.is_file() and OUTSIDE.encode() in (data := path.read_bytes()):
                path.write_bytes(data.replace(OUTSIDE.encode(), str(victim).encode()))


def _keep(case: Path, target: Path) -> None:
    if target.parent.is_dir() and len(list(target.parent.iterdir())) >= MAX_NUM_KEPT:
        return
    shutil.copytree(case, target, dirs_exist_ok=True, ignore_dangling_symlinks=True)


class Results:
    """What the slices of a target ran and found."""

    def __init__(self) -> None:
        self.num_cases, self.seconds, self.next_number = 0, 0.0, 0
        self.counts: Counter[str] = Counter()
        self.first: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, number: int, detail: str) -> bool:
        """Whether this fault is new."""
        self.counts[kind] += 1
        is_new = kind not in self.first
        self.first.setdefault(kind, (number, detail))
        return is_new


def fuzz(names: Sequence[str], seed: int, budget_sec: float, keep: Path, case: int | None = None) -> dict[str, Results]:
    """All targets in turn until the time is up."""
    results = {name: Results() for name in names}
    deadline = time.monotonic() + budget_sec
    slice_sec = min(SLICE_SEC, budget_sec / len(names))
    for name in itertools.cycle(names):
        result, left_sec = results[name], deadline - time.monotonic()
        if left_sec <= 0:
            return results
        start = time.monotonic()
        first = result.next_number if case is None else case
        _run_in_process(name, seed, first, min(slice_sec, left_sec), keep, result, case is not None)
        result.seconds += time.monotonic() - start
        if case is not None:
            return results
    return results


def _run_in_process(
    name: str, seed: int, first: int, budget_sec: float, keep: Path, result: Results, only: bool
) -> None:
    words = ["--slice", name, "--seed", str(seed), "--first", str(first), "--budget-sec", str(budget_sec)]
    words += ["--keep", str(keep)] + (["--case", str(first)] if only else [])
    environment = os.environ | {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tests.slow.fuzz", *words]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=budget_sec + 120)
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        code, out, err = "none: stopped, it did not return", _text(error.stdout), _text(error.stderr)
    last = first - 1
    for line in out.splitlines():
        content = json.loads(line)
        if "begun" in content:
            last = content["begun"]
            result.num_cases += 1
        elif result.add(content["kind"], content["case"], content["detail"]):
            print(f"{name} case {content['case']}: {content['kind']}\n{content['detail']}\n", flush=True)
    if code != 0 and result.add(f"the process ended with code {code}", last, err[-3000:]):
        print(f"{name} case {last}: the process ended with code {code}\n{err[-3000:]}\n", flush=True)
    result.next_number = last + 1


def _text(data: bytes | str | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-sec", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("outputs/fuzz"), help="folder for inputs that failed")
    parser.add_argument("--only", nargs="+", metavar="TARGET", help="targets (default: all)")
    parser.add_argument("--case", type=int, help="run one case of one target again")
    parser.add_argument("--slice", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.slice:
        first = args.first if args.case is None else args.case
        run_slice(args.slice, args.seed, first, args.budget_sec, args.keep.absolute(), args.case is not None)
        return 0
    names = args.only or list(all_targets())
    results = fuzz(names, args.seed, args.budget_sec, args.keep.absolute(), args.case)
    for name, result in results.items():
        print(f"{name}: {result.num_cases:,} cases in {result.seconds:,.0f} s, {len(result.counts)} faults found")
        for kind, count in result.counts.most_common():
            print(f"  {count:,} x {kind}, first in case {result.first[kind][0]}")
    return 1 if any(result.counts for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
