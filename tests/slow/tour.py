"""The tour's four stages, each killed in the middle and resumed at another number of processes.

    python -m tests.slow.tour --folder FOLDER [--stages s1 s2]

In: train_configs/tour/, a folder for the runs. Out: for each stage its losses, in benchmarks/results/tour.json, and an
`AssertionError` where a run does not end well, takes other steps or rates than its file says, or starts from something
else than it should. A later stage takes over from runs that are in the folder already. One to three minutes a stage.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from tests.slow.parallel_matrix import machine
from tests.support.runs import train_and_kill_after, train_well
from titan_speech.config.budget import Budget
from titan_speech.preflight.config_checks import load_config

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "tour.json"
STAGES = ("s1", "s2", "s3", "sft")
KILLED_AFTER, RESUMED_FROM = 6, 4
LAST_STEPS = 4
"""Whose mean is the loss a stage ends with: a batch differs from the next by more than a stage of 8 steps falls."""


@dataclass(frozen=True)
class StageRun:
    """One stage, cut and resumed."""

    stage: str
    processes: tuple[int, int]
    """Before the cut and after it."""

    losses: tuple[float, ...]
    """Of each step; those before the cut that were taken again are of the second time."""

    carried: tuple[str, ...]
    """Sources of which every stream is read on from where the stage before left it."""

    sec: float
    """Both runs, start and import included."""

    @property
    def first_loss(self) -> float:
        return self.losses[0]

    @property
    def last_loss(self) -> float:
        return mean(self.losses[-LAST_STEPS:])


def cut_and_resumed(folder: Path, stage: str) -> StageRun:
    """Run `stage` in folder/stage, from the one before beside it.

    Raises:
        AssertionError: a run failed, or did not do what its file says.
    """
    number, run, began = STAGES.index(stage), folder / stage, time.perf_counter()
    before, after = ((1, 2), (2, 1))[number % 2]
    config, handed = f"train_configs/tour/{stage}.toml", ()
    if number:
        handed = ("--stage.from", str(folder / STAGES[number - 1]))
    train_and_kill_after(run, KILLED_AFTER, *handed, world_size=before, config=config)
    logged = train_well(run, *handed, world_size=after, config=config)
    _check_steps(config, logged)
    _check_starts((run / "log.txt").read_text(), run, is_first=not number)
    return StageRun(
        stage=stage,
        processes=(before, after),
        losses=tuple(logged[step]["loss"] for step in sorted(logged)),
        carried=_carried(run),
        sec=round(time.perf_counter() - began, 1),
    )


def _check_steps(config: str, logged: Mapping[int, Mapping[str, float]]) -> None:
    """Logged steps count from 1."""
    budget = Budget.from_config(load_config(["--job.config_file", config]).config)
    assert sorted(logged) == list(range(1, budget.num_steps + 1)), sorted(logged)
    for step, record in logged.items():
        rate = budget.learning_rate(step - 1)
        assert abs(record["lr"] - rate) <= 1e-9 * rate, f"step {step}: rate {record['lr']} instead of {rate}"


def _check_starts(text: str, run: Path, *, is_first: bool) -> None:
    assert f"starts from      step {RESUMED_FROM} of" in text, text[-3000:]
    assert ("starts from      the weights of the previous stage" in text) != is_first, text[-3000:]
    assert "rises from stage to stage" not in text, text[-3000:]


def _carried(run: Path) -> tuple[str, ...]:
    phases = [json.loads(path.read_text()) for path in sorted((run / "data_phases").glob("*.json"))]
    streams = [stream for phase in phases for stream in phase["streams"]]
    others = {stream["source"] for stream in streams if stream["status"] != "carried"}
    return tuple(sorted({stream["source"] for stream in streams} - others))


def keep(found: StageRun, path: Path = RESULTS) -> None:
    """Add or replace one stage."""
    kept = json.loads(path.read_text())["stages"] if path.exists() else []
    stages = {one["stage"]: one for one in kept} | {found.stage: asdict(found)}
    record = {
        "measured_on": machine(),
        "killed_after_step": KILLED_AFTER,
        "stages": [stages[name] for name in STAGES if name in stages],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def read_stages(path: Path = RESULTS) -> list[StageRun]:
    """What was kept."""
    stages = []
    for one in json.loads(path.read_text())["stages"]:
        lists = {key: tuple(one.pop(key)) for key in ("processes", "losses", "carried")}
        stages.append(StageRun(**lists, **one))
    return stages


def table(stages: list[StageRun]) -> str:
    """As docs/quick_start.md has it."""
    rows = ["| stage | processes, before and after the cut | steps | loss of step 1 | mean of the last four |"]
    rows.append("|---|---|---|---|---|")
    for one in stages:
        ranks = f"{one.processes[0]}, {one.processes[1]}"
        rows.append(f"| {one.stage} | {ranks} | {len(one.losses)} | {one.first_loss:.2f} | {one.last_loss:.2f} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    arguments = parser.parse_args()
    for stage in arguments.stages:
        found = cut_and_resumed(arguments.folder.absolute(), stage)
        keep(found)
        print(f"{stage}: loss {found.first_loss:.2f} to {found.last_loss:.2f}, {found.sec:.0f} s", flush=True)


if __name__ == "__main__":
    main()
