"""How costs grow: with the samples of a store, and with the ranks of a run.

In: options. Out: for stores of 10^3 to 8 * 10^7 samples (large_store.py) the time of the first plan and of a later one,
from the start of a process to its first step, fresh and resumed, and of a step; for worlds of 1 to 1,024 ranks,
simulated, the processor time until a rank's first batch, with and without what torch's meshes and sharding take of it,
and the size of its state. Everything but the first plan, which counts
every sample once, should stay as it is from 10^5 samples on. Stores take turns in steps; starts are repeated, one store
after the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.large_store import write_large_store
from benchmarks.machine import ROOT
from benchmarks.record import Case, Figure, Goal, Ratio
from benchmarks.suite import NO_GPU, Found, Options, config_words, step_sec, tell
from benchmarks.turns import Rounds, Turn, Variant, take_turns

CASES = ("samples", "worlds")
CONFIG = "benchmarks/settings/growth.toml"
SAMPLES = (10**3, 10**5, 10**7, 8 * 10**7)
QUICK_SAMPLES = (10**3, 10**5, 10**6)
BASE = 10**5
WORLDS, QUICK_WORLDS = (1, 8, 64, 1024), (1, 1024)
FLAT = Goal("at most", 1.1)


def run(options: Options) -> Found:
    samples, worlds = (QUICK_SAMPLES, QUICK_WORLDS) if options.is_quick else (SAMPLES, WORLDS)
    if options.is_dry_run:
        names = [f"samples_{count}" for count in samples if options.wants("samples")]
        names += [f"world_{size}" for size in worlds if options.wants("worlds")]
        reason = {"start_sec": "dry run"}
        return Found(tuple(Case(name, "", {}, (), reason) for name in names), (), NO_GPU)
    repeats = 1 if options.is_quick else 2
    cases: list[Case] = []
    ratios: list[Ratio] = []
    if options.wants("samples"):
        with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder:
            of_samples = _Stores(Path(folder), options, samples, repeats)
            cases += of_samples.cases()
            ratios += of_samples.ratios()
    if options.wants("worlds"):
        starts = _simulated(worlds, repeats)
        cases += (_world_case(size, found) for size, found in starts.items())
        ratios += _world_ratios(starts)
    return Found(tuple(cases), tuple(ratios), NO_GPU)


class _Stores:
    """Stores of growing size, and what was measured of each."""

    def __init__(self, folder: Path, options: Options, samples: tuple[int, ...], repeats: int) -> None:
        self.samples, self._ours, self._folder = samples, options.ours, folder
        self.plans = {count: self._plans(count) for count in samples}
        fresh = [self._one_start(count, number) for number in range(repeats) for count in samples]
        resumed = [self._one_start(count, number) for number in range(repeats) for count in samples]
        self.fresh, self.resumed = self._by_count(fresh), self._by_count(resumed)
        rounds = Rounds(3, 1, 5) if options.is_quick else Rounds(4, 2, 12)
        variants = [self._variant(count, "steps", {"checkpoint.enable": "false"}) for count in samples]
        self.steps = take_turns(variants, rounds, tell)

    def _plans(self, count: int) -> dict[str, float]:
        """Seconds of the first plan and a later one, each in a process of its own."""
        tell(f"store of {count:,} samples: writing, planning twice")
        store = self._folder / f"store-{count}"
        write_large_store(store, count, "tokenizer/tiny", readable=True)
        found = {}
        for name in ("first_plan", "later_plan"):
            command = [sys.executable, "-m", "benchmarks.planning", str(store)]
            printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
            found |= {f"{name}_{key}": value for key, value in json.loads(printed).items()}
        return found

    def _variant(self, count: int, run_name: str, more: Mapping[str, str] | None = None) -> Variant:
        overrides = {"job.dump_folder": f"{self._folder}/{run_name}-{count}", **(more or {})}
        overrides |= {f"data.source.{i}.store": f"{self._folder}/store-{count}" for i in range(2)}
        return Variant(f"samples_{count}", f"a store of {count:,} samples", self._ours, config_words(CONFIG, overrides))

    def _one_start(self, count: int, number: int) -> tuple[int, Turn]:
        """Two steps, at the second of which a run that is new saves; one that was there resumes."""
        turn = take_turns([self._variant(count, f"start-{number}")], Rounds(2, 1, 1), tell)
        return count, turn[f"samples_{count}"]

    def _by_count(self, found: list[tuple[int, Turn]]) -> dict[int, list[Turn]]:
        return {count: [turn for of, turn in found if of == count] for count in self.samples}

    def cases(self) -> Iterator[Case]:
        for count in self.samples:
            windows = self.steps[f"samples_{count}"].windows
            figures = [
                Figure.of("start_sec", "s", [turn.ready_sec for turn in self.fresh[count]]),
                Figure.of("resume_sec", "s", [turn.ready_sec for turn in self.resumed[count]]),
                Figure.of("step_sec", "s", [step_sec(window) for window in windows]),
                Figure.of("data_wait_fraction", "1", [one.data_wait_sec / one.wall_sec for one in windows]),
                *(Figure.of(key, _unit(key), [value]) for key, value in self.plans[count].items()),
            ]
            yield Case(f"samples_{count}", f"a store of {count:,} samples", {"config": CONFIG}, tuple(figures))

    def ratios(self) -> Iterator[Ratio]:
        for count in (count for count in self.samples if count > BASE):
            pairs = zip(self.steps[f"samples_{count}"].windows, self.steps[f"samples_{BASE}"].windows, strict=True)
            values = [step_sec(one) / step_sec(base) for one, base in pairs]
            name = f"samples_{count}_to_{BASE}"
            yield Ratio.of(f"step_{name}", "seconds per step", values, FLAT)
            for word, starts in (("start", self.fresh), ("resume", self.resumed)):
                values = [one.ready_sec / base.ready_sec for one, base in zip(starts[count], starts[BASE], strict=True)]
                yield Ratio.of(f"{word}_{name}", "seconds to the first step", values, FLAT)


def _simulated(worlds: tuple[int, ...], repeats: int) -> dict[int, list[dict[str, float]]]:
    starts: dict[int, list[dict[str, float]]] = {size: [] for size in worlds}
    for number in range(repeats):
        for size in worlds:
            tell(f"rank 0 of {size:,}, start {number + 1}")
            command = [sys.executable, "-m", "benchmarks.simulated_rank", str(size)]
            done = subprocess.run(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
            )
            line = next(line for line in done.stdout.splitlines() if line.startswith('{"found"'))
            starts[size].append(json.loads(line)["found"])
    return starts


def _world_case(size: int, found: list[dict[str, float]]) -> Case:
    figures = tuple(Figure.of(key, _unit(key), [one[key] for one in found]) for key in found[0])
    return Case(f"world_{size}", f"rank 0 of {size:,}, simulated, debug model", {}, figures)


def _world_ratios(starts: dict[int, list[dict[str, float]]]) -> Iterator[Ratio]:
    quantities: dict[str, tuple[str, Callable[[dict[str, float]], float]]] = {
        "start": ("CPU seconds of a process to its first batch", lambda one: one["start_cpu_sec"]),
        "start_but_layout": (
            "the same without torch's meshes and sharding",
            lambda one: one["start_cpu_sec"] - one["layout_cpu_sec"],
        ),
        "state": ("bytes of state", lambda one: one["state_bytes"]),
    }
    base = min(starts)
    for size in (size for size in starts if size > base):
        for key, (what, of) in quantities.items():
            values = [of(one) / of(other) for one, other in zip(starts[size], starts[base], strict=True)]
            yield Ratio.of(f"{key}_world_{size}_to_{base}", what, values, FLAT)


def _unit(key: str) -> str:
    endings = {"_ms": "ms", "_sec": "s", "_bytes": "bytes"}
    return next((unit for ending, unit in endings.items() if key.endswith(ending)), "MB")
