"""Parity of layouts: each against one process, in fp32, from one seed checkpoint, ten steps of packed documents.

    python -m tests.slow.parallel_matrix [--family llama3] [--only "FSDP 2"] [--rows 4] [--again] [--folder FOLDER]

In: the rows of parallel_rows.py. Out: benchmarks/results/parallel_matrix.json, written after each row; rows that are in
it are left out, so that it can be stopped, or taken a few rows at a time, and gone on with. A row takes 20 to 60 s on
two cores, the first compiled one two minutes. The exit code is 1 if a row failed or is outside its tolerance, 3 if rows
are left to measure.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from enum import Enum
from pathlib import Path

import torch

from tests.slow.parallel_rows import (
    LAYOUTS,
    NUM_STEPS,
    Gap,
    Layout,
    families_of,
    flavor,
    keep,
    read_gaps,
    settings,
    variant,
    words,
)
from tests.support.runs import figures, losses, train_well
from tests.support.warm import start_warm

Losses = dict[int, dict[str, float]]
TEN_STEPS = {
    "training.target_tokens": str(NUM_STEPS * 1024),
    "comm.train_timeout_seconds": "600",
    "model.attention": "dense",
}


class Runs:
    """Runs of one family under a folder; seeds and runs of one process are made once and kept in it."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.folder = family, folder

    def losses(self, layout: Layout) -> Losses:
        overrides = variant(layout) | layout.overrides
        return self._train(self.folder / "run", flavor(layout), overrides, layout.world_size)

    def seed(self, of_flavor: str) -> Path:
        folder = self.folder / f"seed-{of_flavor}"
        if (folder / "checkpoint" / "step-0" / ".metadata").exists():
            return folder / "checkpoint" / "step-0"
        of_step_0 = words(self._model(of_flavor) | {"checkpoint.create_seed_checkpoint": "true"})
        train_well(folder, *of_step_0, start=start_warm)
        return folder / "checkpoint" / "step-0"

    def one_process(self, of_flavor: str, overrides: dict[str, str]) -> Losses:
        run = self.folder / "-".join(("one", of_flavor, *overrides.values()))
        if NUM_STEPS in figures(run):
            return losses(figures(run))
        return self._train(run, of_flavor, overrides, 1)

    def _model(self, of_flavor: str) -> dict[str, str]:
        return {"model.family": self.family, "model.flavor": of_flavor}

    def _train(self, run: Path, of_flavor: str, overrides: dict[str, str], world_size: int) -> Losses:
        start = {"checkpoint.initial_load_path": str(self.seed(of_flavor))}
        every = TEN_STEPS | self._model(of_flavor) | start | overrides
        shutil.rmtree(run, ignore_errors=True)
        return losses(train_well(run, *words(every), world_size=world_size, start=start_warm))


def measure(runs: Runs, layout: Layout) -> Gap:
    """Run one layout and compare it.

    Raises:
        AssertionError: the run failed, or has other steps or groups than one process.
    """
    expected = runs.one_process(flavor(layout), {} if layout.against_fp32 else variant(layout))
    groups = tuple(name for step in expected.values() for name in step if name.startswith("loss/"))
    began = time.perf_counter()
    found = runs.losses(layout)
    sec = time.perf_counter() - began
    return Gap(
        family=runs.family,
        layout=layout.name,
        world_size=layout.world_size,
        overrides=settings(layout),
        against=f"one process in {_against(layout)}",
        num_steps=len(found),
        loss_gap=_gap(found, expected, ("loss",)),
        group_gap=_gap(found, expected, groups),
        norm_gap=_gap(found, expected, ("grad_norm",)),
        loss_tolerance=layout.loss_tolerance,
        norm_tolerance=layout.norm_tolerance,
        last_loss=found[NUM_STEPS]["loss"],
        sec=round(sec, 1),
    )


def _against(layout: Layout) -> str:
    if layout.lora_rank:
        return f"fp32, LoRA of rank {layout.lora_rank}"
    return "fp32" if layout.against_fp32 or layout.float8 == "none" else f"float8 {layout.float8}"


def _gap(found: Losses, expected: Losses, names: tuple[str, ...]) -> float:
    assert {step: sorted(values) for step, values in found.items()} == {
        step: sorted(values) for step, values in expected.items()
    }
    return max(
        abs(found[step][name] - value) / abs(value)
        for step, values in expected.items()
        for name, value in values.items()
        if name in names
    )


def machine() -> str:
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), gloo, torch {torch.__version__}"


class Outcome(Enum):
    """What became of a row."""

    PASSED = "passes"
    OFF = "DOES NOT PASS"
    FAILED = "failed"


def rows_to_measure(families: list[str], only: str | None, again: bool) -> list[tuple[str, Layout]]:
    """The most telling ones first: what is measured for both families, one family after the other, then the rest."""
    known = set() if again else {(gap.family, gap.layout) for gap in read_gaps()}
    rows = [
        (family, layout)
        for family in families
        for layout in LAYOUTS
        if family in families_of(layout) and only in (None, layout.name) and (family, layout.name) not in known
    ]
    return sorted(rows, key=lambda row: not row[1].in_both)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("llama3", "qwen3"), default=None, help="one family; else both")
    parser.add_argument("--only", help="name of one layout")
    parser.add_argument("--rows", type=int, default=None, help="measure at most so many rows")
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--folder", type=Path, default=Path("outputs/parallel_matrix"), help="where runs are kept")
    arguments = parser.parse_args()
    families = [arguments.family] if arguments.family else ["llama3", "qwen3"]
    rows = rows_to_measure(families, arguments.only, arguments.again)
    now = rows[: arguments.rows]
    outcomes = [_measure_and_keep(Runs(family, arguments.folder / family), layout) for family, layout in now]
    if any(outcome is not Outcome.PASSED for outcome in outcomes):
        return 1
    return 3 if len(rows) > len(now) else 0


def _measure_and_keep(runs: Runs, layout: Layout) -> Outcome:
    try:
        gap = measure(runs, layout)
    except AssertionError as error:
        kept = runs.folder / f"failed {layout.name}"
        shutil.rmtree(kept, ignore_errors=True)
        if (runs.folder / "run").exists():
            (runs.folder / "run").rename(kept)
        print(f"{runs.family} {layout.name}: failed, see {kept}\n{str(error)[-3000:]}", flush=True)
        return Outcome.FAILED
    keep(gap, machine())
    outcome = Outcome.PASSED if gap.passes else Outcome.OFF
    print(
        f"{gap.family} {gap.layout}: loss {gap.loss_gap:.1e}, groups {gap.group_gap:.1e}, norm {gap.norm_gap:.1e}, "
        f"{gap.sec:.0f} s, {outcome.value}",
        flush=True,
    )
    return outcome


if __name__ == "__main__":
    sys.exit(main())
