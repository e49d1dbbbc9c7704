"""One suite, measured here: `python -m benchmarks.run SUITE --json OUT [--quick] [--dry-run]`.

In: the suite's name. Out: a JSON as defined in record.py; progress on stderr, a table on stdout. The exit code is 0
also if a goal is missed: benchmarks.check fails then. Arguments are checked before anything is measured; an interrupted
run writes nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import ROOT, load, this_machine
from benchmarks.record import Report
from benchmarks.report import comparison, lines
from benchmarks.suite import SUITES, Options, tell

LOCK = ROOT / "outputs/benchmarks/lock"


def run(suite: str, options: Options) -> Report:
    """Raises ValueError for cases that the suite has not, RuntimeError where a variant fails or another runs."""
    module = importlib.import_module(f"benchmarks.suites.{suite}")
    check_cases(suite, module.CASES, options.only)
    with alone(LOCK):
        began, load_before = time.monotonic(), load()
        found = module.run(options)
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


def check_cases(suite: str, cases: Sequence[str], only: Sequence[str]) -> None:
    unknown = [name for name in only if name not in cases]
    if unknown:
        expected = f"some of {', '.join(cases)}" if cases else "no --only, since this suite runs as a whole"
        raise ValueError(f"--only: found {', '.join(unknown)} for {suite}, expected {expected}")


def check_writable(path: Path) -> None:
    """Raises ValueError now rather than OSError after minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"--json {path}: found {error}, expected a folder that can be written") from error
    if path.is_dir():
        raise ValueError(f"--json {path}: found a folder, expected the name of a file")


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One at a time in this copy of the repository: two would write the same folders and slow each other down."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{lock}: another benchmark is running here; wait until it has ended") from error
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller data")
    parser.add_argument("--dry-run", action="store_true", help="measure nothing; GPU cases on a fake process group")
    parser.add_argument(
        "--only", nargs="+", default=(), help="cases to run (default: all this machine can; an unknown one lists them)"
    )
    parser.add_argument("--world-size", type=int, default=0, help="GPUs of a run (default: all of this machine)")
    parser.add_argument("--ours", default=Options.ours, help="module measured as ours (default: %(default)s)")
    args = parser.parse_args()
    options = Options(args.quick, args.dry_run, args.ours, tuple(args.only), args.world_size)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_writable(args.json)
        report = run(args.suite, options)
        report.write(args.json)
    except (ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {args.json} is not written", file=sys.stderr)
        return 130
    tell(f"wrote {args.json}")
    print("\n".join([*lines(report), *(comparison(report) if args.suite == "train_step" else [])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
