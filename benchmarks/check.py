"""The alarm: what was measured now against a baseline; exit code 1 where something is lost.

    python -m benchmarks.check                           run the quick pairs here (some minutes) and judge them
    python -m benchmarks.check --reports a.json b.json   judge reports that are there
    python -m benchmarks.check --reports a.json b.json --write

In: reports, or none: then those of `QUICK` are made. Out: a line for each entry of benchmarks/baselines/<device>.json
that the reports have. On a CPU ratios of one run and counts of bytes are entries, since absolute times of shared
machines say nothing; on a GPU rates are, too. The tolerance is three times the spread of single pairs when the baseline
was made, about five standard errors of a median of twelve pairs, and at least 5 %; a ratio so unsteady that this comes
to half of it is no entry. Better than the baseline passes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import device_key
from benchmarks.record import Better, Report, read_report, rounded
from benchmarks.suite import Options
from titan_speech.plan.units import table

BASELINES = Path(__file__).parent / "baselines"
LEAST_TOLERANCE, SPREADS, MOST_TOLERANCE = 0.05, 3.0, 0.5
QUICK = (
    ("train_step", Options(is_quick=True, only=("debug_cpu",))),
    ("sft_packing", Options(is_quick=True, only=("ours_compiled",))),
    ("memory", Options(is_quick=True, only=("bf16_fp32_masters",))),
)
"""What is run where no reports are given."""

COUNTED: dict[str, Better] = {"tensors_gb": "lower", "compiled_graphs": "higher"}
"""Counts, the same on every machine. A build that lost its compilation has no graphs; a CPU's rates hardly show it."""

BOUNDS = {"cpu_overhead_over_torchtitan": 1.10}
"""Never beyond these, however unsteady the machine of the baseline was."""

RATES = ("tokens_per_sec_per_gpu", "trained_tokens_per_sec_per_gpu", "mfu")


@dataclass(frozen=True)
class Entry:
    """One quantity that must not get worse."""

    suite: str
    name: str
    """A ratio's, or case.figure."""
    value: float
    tolerance: float
    """Relative."""
    better: Better

    @property
    def limit(self) -> float:
        return self.value * (1 - self.tolerance if self.better == "higher" else 1 + self.tolerance)

    def is_lost(self, found: float) -> bool:
        return found < self.limit if self.better == "higher" else found > self.limit


@dataclass(frozen=True)
class Verdict:
    """An entry and what was found; None: the reports have it not."""

    entry: Entry
    found: float | None

    @property
    def is_lost(self) -> bool:
        return self.found is not None and self.entry.is_lost(self.found)


def entries_of(report: Report) -> list[Entry]:
    """What a report gives a baseline: of all that may be held, what is steady and of something that is there."""
    return [one for one in _quantities(report) if one.value and one.tolerance < MOST_TOLERANCE]


def _quantities(report: Report) -> Iterator[Entry]:
    for ratio in report.ratios:
        tolerance = max(LEAST_TOLERANCE, SPREADS * ratio.spread)
        if ratio.name in BOUNDS:
            tolerance = min(tolerance, max(BOUNDS[ratio.name] / ratio.median - 1, 0.0))
        yield Entry(report.suite, ratio.name, ratio.median, tolerance, ratio.better)
    for case in report.cases:
        for figure in case.figures:
            name = f"{case.name}.{figure.name}"
            if figure.name in COUNTED:
                yield Entry(report.suite, name, figure.median, LEAST_TOLERANCE, COUNTED[figure.name])
            elif report.machine.is_gpu and figure.name in RATES:
                tolerance = max(LEAST_TOLERANCE, SPREADS * figure.spread)
                yield Entry(report.suite, name, figure.median, tolerance, "higher")


def judged(baseline: Sequence[Entry], reports: Sequence[Report]) -> list[Verdict]:
    """Every entry, also where what was found now is too unsteady for a baseline."""
    found = {(one.suite, one.name): one.value for report in reports for one in _quantities(report)}
    return [Verdict(entry, found.get((entry.suite, entry.name))) for entry in baseline]


def read_baseline(path: Path) -> list[Entry]:
    """Raises FileNotFoundError, whose text says how a baseline is made."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: found no baseline for this device; expected one that `python -m benchmarks.check --reports ... "
            "--write` made of sound runs on it"
        )
    return [Entry(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["entries"]]


def write_baseline(path: Path, reports: Sequence[Report]) -> None:
    """Replaces the entries of the suites that the reports are of; others stay."""
    entries = [entry for report in reports for entry in entries_of(report)]
    suites = {report.suite for report in reports}
    kept = [entry for entry in read_baseline(path) if entry.suite not in suites] if path.exists() else []
    newest = reports[-1]
    content = {
        "device": newest.machine.device,
        "date": newest.date,
        "git_revision": newest.machine.git_revision,
        "versions": newest.machine.versions,
        "entries": [asdict(entry) for entry in sorted([*kept, *entries], key=lambda one: (one.suite, one.name))],
    }
    path.write_text(json.dumps(rounded(content), indent=1) + "\n", encoding="utf-8")


def shown(verdicts: Sequence[Verdict]) -> list[str]:
    rows = [("", "baseline", "limit", "found", "")]
    for one in verdicts:
        if one.found is not None:
            entry, verdict = one.entry, "LOST" if one.is_lost else "kept"
            name = f"{entry.suite} {entry.name}"
            rows.append((name, f"{entry.value:.4g}", f"{entry.limit:.4g}", f"{one.found:.4g}", verdict))
    return table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs="+", help="reports of benchmarks.run (default: run some)")
    parser.add_argument("--baseline", type=Path, help="file (default: benchmarks/baselines/<device>.json)")
    parser.add_argument("--write", action="store_true", help="make the baseline of these reports")
    args = parser.parse_args()
    if args.reports:
        reports = [read_report(path) for path in args.reports]
    else:
        from benchmarks.run import run

        reports = [run(suite, options) for suite, options in QUICK]
    path = args.baseline or BASELINES / f"{device_key(reports[0].machine)}.json"
    if args.write:
        write_baseline(path, reports)
        return 0
    try:
        verdicts = judged(read_baseline(path), reports)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(shown(verdicts)))
    if not any(one.found is not None for one in verdicts):
        print(f"{path} has nothing of what was measured", file=sys.stderr)
        return 2
    return 1 if any(one.is_lost for one in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
