"""Reading: tokens per second from a store to a batch, against plain copies of the same bytes.

In: options. Out: the figures of benchmarks/data_path.py, in which reading and copies take turns; its large store is
left to the startup suite. In a pull request the ratios to plain copies of the same pieces are what to look at.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.machine import ROOT
from benchmarks.record import Case, Figure, Goal, Ratio
from benchmarks.suite import NO_GPU, Found, Options, tell

CASES = ()
"""None can be run without the others."""

WAYS = {
    "speech": "raw speech, documents of 9.5 s",
    "tts": "paired speech, best-fit packs",
    "clone": "reference and target of one speaker",
    "text": "documents",
    "mixed": "all three in equal shares",
}
COPIES = {"copy_pieces": Goal("at least", 0.2), "copy_arrays": None}
UNITS = {"mtok_per_sec": "Mtok/s", "ms": "ms", "fill": "1", "pack": "documents"}


def run(options: Options) -> Found:
    if options.is_dry_run:
        reason = {"mtok_per_sec": "dry run"}
        return Found(tuple(Case(name, what, {}, (), reason) for name, what in WAYS.items()), (), NO_GPU)
    found: list[dict[str, float]] = []
    for turn in range(1 if options.is_quick else 3):
        tell(f"reading, turn {turn + 1}")
        command = [sys.executable, "-m", "benchmarks.data_path", "--large-samples", "0"]
        command += ["--quick"] if options.is_quick else []
        printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        found.append(json.loads(printed))
    cases, ratios = [], []
    for name, what in WAYS.items():
        figures = [
            Figure.of(key.removeprefix(f"{name}_"), _unit(key), [one[key] for one in found])
            for key in found[0]
            if key.startswith(f"{name}_") and "_to_" not in key
        ]
        cases.append(Case(name, what, {}, tuple(figures)))
        for copies, goal in COPIES.items():
            values = [one[f"{name}_to_{copies}"] for one in found]
            ratios.append(Ratio.of(f"read_{name}_to_{copies}", "rate of reading over plain copies", values, goal))
    rest = [key for key in found[0] if key.startswith(("loader_", "state_", "fill_", "bundled_"))]
    figures = tuple(Figure.of(key, _unit(key), [one[key] for one in found]) for key in rest)
    return Found((*cases, Case("loader", "threads and processes, state, packing", {}, figures)), tuple(ratios), NO_GPU)


def _unit(key: str) -> str:
    return next((unit for ending, unit in UNITS.items() if key.endswith(ending)), "bytes" if "bytes" in key else "1")
