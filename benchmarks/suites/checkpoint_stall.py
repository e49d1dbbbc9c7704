"""Cost of checkpoints: time a step waits, time lost by steps during the writing, time to resume.

In: options. Out: the figures of benchmarks/checkpoint_stall.py, which runs as it does alone: 100 M parameters, blocking
saves and background saves, resumes with and without checksums, on the disk of the temporary folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.record import Case, Figure, Goal, Ratio
from benchmarks.suite import NO_GPU, Found, Options, tell

CASES = ()
"""None can be run without the others."""

NUM_SAVES = 4
STALL, RESUME = Goal("at most", 0.25), Goal("at most", 1.3)


def run(options: Options) -> Found:
    what = "100,663,296 parameters with AdamW, one process"
    config: dict[str, str | float | None] = {"num_saves": 2.0 if options.is_quick else float(NUM_SAVES)}
    if options.is_dry_run:
        return Found((Case("saves", what, config, (), {"waited_sec": "dry run"}),), (), NO_GPU)
    with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder:
        out = Path(folder) / "found.json"
        tell(f"saving and loading {what}")
        command = [
            sys.executable,
            "-m",
            "benchmarks.checkpoint_stall",
            "--folder",
            f"{folder}/saves",
            "--json",
            str(out),
        ]
        command += ["--num-saves", f"{config['num_saves']:.0f}"]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
        found = json.loads(out.read_text())
    cases, saves = [], found["saves"]
    for mode, name in (("disabled", "synchronous"), ("async", "background")):
        of_mode = [one for one in saves if one["mode"] == mode]
        figures = (
            Figure.of("waited_sec", "s", [one["waited_sec"] for one in of_mode]),
            Figure.of("complete_after_sec", "s", [one["complete_after_sec"] for one in of_mode]),
            Figure.of("lost_beside_sec", "s", [one["lost_beside_sec"] for one in of_mode]),
        )
        cases.append(Case(name, what, config, figures))
    waited, later = cases[0].figure("waited_sec"), cases[1].figure("waited_sec").values[1:]
    ratios = [
        Ratio.of(
            "stall_background_to_synchronous",
            "time a step waits",
            [one / waited.median for one in later],
            STALL,
        ),
        *(
            Ratio.of(
                f"resume_verified_to_plain_{pages.replace(' ', '_')}",
                "time with checksums over DCP's plain load",
                [one["verified_sec"] / one["plain_sec"] for one in found["loads"] if one["pages"] == pages],
                RESUME,
            )
            for pages in ("dropped", "in memory")
        ),
    ]
    return Found(tuple(cases), tuple(ratios), NO_GPU)
