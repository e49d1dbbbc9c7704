"""Faults planted in a model that learns 32 samples by heart: when a sound run speaks, and when each fault is seen.

    python -m benchmarks.planted_faults --json benchmarks/results/planted_faults_32.json

The slow tests do the same with four samples in minutes; 32 samples take far longer (not measured), so this
is a record and no test. Six runs: sound with three seeds, a wrong prompt template, a stop token that is never trained,
a learning rate ten times too high. Each is written when it has ended, and one that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import load, this_machine
from tests.slow.test_planted_faults import Scale, checks, flagged, speaks, trained

RATE = ("--optimizer.lr", "4e-2", "--lr_scheduler.end_lr", "2e-3")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sound": ("", ()),
    "template": ("template", ()),
    "stop": ("stop", ()),
    "rate": ("", RATE),
    "sound, seed 1": ("", ("--job.seed", "1")),
    "sound, seed 2": ("", ("--job.seed", "2")),
}


def run(name: str, scale: Scale) -> dict[str, Any]:
    """Train once; the measures of each check, and the first check from which on the model speaks."""
    fault, overrides = RUNS[name]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        finished = trained(Path(folder), monkeypatch, fault, *overrides, scale=scale)
        if finished.returncode:
            raise SystemExit(finished.output[-4000:])
        found = checks(Path(folder))
    spoken = [step for step in found if all(speaks(later) for at, later in found.items() if at >= step)]
    return {
        "checks": {step: {measure: round(value, 4) for measure, value in one.items()} for step, one in found.items()},
        "outside_of_the_band": {step: flagged(one) for step, one in found.items()},
        "speaks_from_step": min(spoken, default=None),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file to write, and to continue")
    parser.add_argument("--samples", type=int, default=32, help="samples to learn by heart (default: 32)")
    parser.add_argument("--steps", type=int, default=500, help="steps (default: 500)")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="runs to do (default: all)")
    args = parser.parse_args()
    scale = Scale(args.samples, (75, 170), args.steps, every=max(args.steps // 10, 1), packs=4, seq_len=256)
    found = json.loads(args.json.read_text()) if args.json.exists() else {}
    before = load()
    for name in args.only:
        if name not in found.get("runs", {}):
            one = run(name, scale)
            found = {
                "machine": asdict(this_machine(before)),
                "scale": asdict(scale),
                "runs": {**found.get("runs", {}), name: one},
            }
            args.json.write_text(json.dumps(found, indent=1) + "\n")
            print(name, "speaks from step", one["speaks_from_step"], one["outside_of_the_band"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
