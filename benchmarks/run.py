"""One suite, measured here: `python -m benchmarks.run SUITE --json OUT [--quick] [--dry-run]`.

In: the suite's name. Out: a JSON of the one shape of record.py; progress on stderr, a table on stdout. The exit code is
0 also where a goal is missed: benchmarks.check is what fails.
"""

from __future__ import annotations

import argparse
import importlib
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.comparison import comparison
from benchmarks.machine import load, this_machine
from benchmarks.record import Report
from benchmarks.show import lines
from benchmarks.suite import Options, tell

SUITES = ("train_step", "sft_packing", "data_path", "checkpoint_stall", "startup", "memory")


def run(suite: str, options: Options) -> Report:
    began, load_before = time.monotonic(), load()
    found = importlib.import_module(f"benchmarks.suites.{suite}").run(options)
    return Report(
        suite=suite,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        seconds=time.monotonic() - began,
        is_quick=options.is_quick,
        is_dry_run=options.is_dry_run,
        note=found.note,
        machine=this_machine(load_before),
        cases=found.cases,
        ratios=found.ratios,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller data")
    parser.add_argument("--dry-run", action="store_true", help="measure nothing; GPU cases on a fake process group")
    parser.add_argument("--only", nargs="+", default=(), help="cases to run (default: all this machine can)")
    parser.add_argument("--world-size", type=int, default=0, help="GPUs of a run (default: all of this machine)")
    parser.add_argument("--device", default="h100", help="whose goals a dry run is shown against (default: h100)")
    parser.add_argument("--ours", default=Options.ours, help="module measured as ours (default: %(default)s)")
    args = parser.parse_args()
    options = Options(args.quick, args.dry_run, args.ours, tuple(args.only), args.world_size, args.device)
    report = run(args.suite, options)
    report.write(args.json)
    tell(f"wrote {args.json}")
    print("\n".join([*lines(report), *(comparison(report) if args.suite == "train_step" else [])]))


if __name__ == "__main__":
    main()
