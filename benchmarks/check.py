"""Performance regression check: reports against a baseline; exit code 1 for a regression.

    python -m benchmarks.check                           run the quick pairs here (a few minutes) and check them
    python -m benchmarks.check --reports a.json b.json   check existing reports (--all: every entry)
    python -m benchmarks.check --reports a.json b.json --write

In: reports of one device; without any, those of `QUICK` are measured. Out: one line per entry of
benchmarks/baselines/<device>.json that the reports have, and the names of the others; exit code 2 if nothing can be
judged. On a CPU ratios of one run and counts of bytes are entries, since absolute times of shared machines are not
comparable; on a GPU rates and device memory are, too. The tolerance is three times the spread of single pairs when the
baseline was made, about five standard errors of a median of twelve pairs, and at least 5 %; ratios whose tolerance
exceeds 50 % are omitted. Better than the baseline passes.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import device_key, key_of, this_machine
from benchmarks.record import Better, Machine, Report, read_report, rounded
from benchmarks.suite import Options
from titan_speech.utils.text_table import table_lines

BASELINES = Path(__file__).parent / "baselines"
LEAST_TOLERANCE, SPREADS, MOST_TOLERANCE = 0.05, 3.0, 0.5


@dataclass(frozen=True)
class Quick:
    """A suite that is run if no reports are given."""

    suite: str
    case: str
    held: tuple[str, ...]
    """Entries that it must have measured: one that is gone is reported, not passed over."""


QUICK = (
    Quick("train_step", "debug_cpu", ("overhead_over_torchtitan", "cpu_overhead_over_torchtitan")),
    Quick("sft_packing", "ours_compiled", ("ours_compiled.compiled_graphs",)),
    Quick("memory", "bf16_fp32_masters", ("bf16_fp32_masters.tensors_gb", "plan_to_run_bf16_fp32_masters")),
)

COUNTED: dict[str, Better] = {"tensors_gb": "lower", "compiled_graphs": "higher"}
"""Counts, the same on every machine. A build that lost its compilation has no graphs; a CPU's rates hardly show it."""

BOUNDS = {"cpu_overhead_over_torchtitan": 1.10}
"""Never above these, whatever the baseline says."""

ON_GPUS: dict[str, Better] = {
    "tokens_per_sec_per_gpu": "higher",
    "trained_tokens_per_sec_per_gpu": "higher",
    "mfu": "higher",
    "peak_memory_gb": "lower",
}


@dataclass(frozen=True)
class Entry:
    """One quantity that must not regress."""

    suite: str
    name: str
    """A ratio's, or case.figure."""
    value: float
    tolerance: float
    """Relative."""
    better: Better

    @property
    def limit(self) -> float:
        if self.better == "higher":
            return self.value * (1 - self.tolerance)
        return min(self.value * (1 + self.tolerance), BOUNDS.get(self.name, math.inf))

    def is_lost(self, found: float) -> bool:
        """Whether a value is a regression; NaN is one."""
        return not (found >= self.limit if self.better == "higher" else found <= self.limit)


@dataclass(frozen=True)
class Verdict:
    """An entry and its measurement; None: not in the reports."""

    entry: Entry
    found: float | None

    @property
    def is_lost(self) -> bool:
        return self.found is not None and self.entry.is_lost(self.found)


def entries_of(report: Report) -> list[Entry]:
    """Entries of a baseline made from a report: quantities that are stable enough and not zero."""
    return [one for one in _quantities(report) if one.value and one.tolerance < MOST_TOLERANCE]


def _quantities(report: Report) -> Iterator[Entry]:
    for ratio in report.ratios:
        tolerance = max(LEAST_TOLERANCE, SPREADS * ratio.spread)
        yield Entry(report.suite, ratio.name, ratio.median, tolerance, ratio.better)
    for case in report.cases:
        for figure in case.figures:
            name = f"{case.name}.{figure.name}"
            if figure.name in COUNTED:
                yield Entry(report.suite, name, figure.median, LEAST_TOLERANCE, COUNTED[figure.name])
            elif report.machine.is_gpu and figure.name in ON_GPUS:
                tolerance = max(LEAST_TOLERANCE, SPREADS * figure.spread)
                yield Entry(report.suite, name, figure.median, tolerance, ON_GPUS[figure.name])


def judged(baseline: Sequence[Entry], reports: Sequence[Report]) -> list[Verdict]:
    """Every entry in every report that has it, whatever its spread, and every quantity with a bound."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in (one for report in reports for one in _quantities(report)):
        found.setdefault((one.suite, one.name), []).append(one.value)
    known = {(entry.suite, entry.name) for entry in baseline}
    bounded = [Entry(*key, BOUNDS[key[1]], 0.0, "lower") for key in found if key[1] in BOUNDS and key not in known]
    return [
        Verdict(entry, value)
        for entry in (*baseline, *bounded)
        for value in found.get((entry.suite, entry.name), [None])
    ]


def machine_of(reports: Sequence[Report]) -> Machine:
    """Raises ValueError for reports of several devices, or of dry runs."""
    for report in reports:
        if report.is_dry_run:
            raise ValueError(f"{report.suite}: found a dry run, expected a measured report; run it without --dry-run")
    found = sorted({f"{report.machine.num_gpus} x {report.machine.device}" for report in reports})
    if len(found) > 1:
        raise ValueError(f"found reports of {' and '.join(found)}; expected one device, give those of one at a time")
    return reports[0].machine


def read_baseline(path: Path, machine: Machine | None = None) -> list[Entry]:
    """Raises FileNotFoundError with the command that writes one; ValueError for a baseline of another machine."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: found no baseline for this device; expected one that `python -m benchmarks.check --reports ... "
            "--write` made of sound runs on it"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries, device = [Entry(**entry) for entry in content["entries"]], content["device"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: found no baseline ({error!r}); expected one that --write made") from error
    if machine is not None:
        of_path, of_machine = (key_of(device), content.get("num_gpus", 0)), (device_key(machine), machine.num_gpus)
        if of_path != of_machine:
            raise ValueError(f"{path}: found a baseline of {of_path}, expected {of_machine} (device, GPUs)")
    return entries


def write_baseline(path: Path, reports: Sequence[Report]) -> list[str]:
    """Replace the entries of the suites in the reports; others stay. Returns the names of removed entries."""
    entries = [entry for report in reports for entry in entries_of(report)]
    suites, machine = {report.suite for report in reports}, machine_of(reports)
    before = read_baseline(path, machine) if path.exists() else []
    after = [*(entry for entry in before if entry.suite not in suites), *entries]
    newest = max(reports, key=lambda report: report.date)
    content = {
        "device": machine.device,
        "num_gpus": machine.num_gpus,
        "date": newest.date,
        "git_revision": ", ".join(sorted({report.machine.git_revision for report in reports})),
        "versions": newest.machine.versions,
        "entries": [asdict(entry) for entry in sorted(after, key=lambda one: (one.suite, one.name))],
    }
    path.write_text(json.dumps(rounded(content), indent=1) + "\n", encoding="utf-8")
    names = {(entry.suite, entry.name) for entry in after}
    return [f"{entry.suite} {entry.name}" for entry in before if (entry.suite, entry.name) not in names]


def shown(verdicts: Sequence[Verdict]) -> list[str]:
    rows = [("", "baseline", "limit", "found", "")]
    for one in verdicts:
        if one.found is not None:
            entry, verdict = one.entry, "LOST" if one.is_lost else "kept"
            name = f"{entry.suite} {entry.name}"
            rows.append((name, f"{entry.value:.4g}", f"{entry.limit:.4g}", f"{one.found:.4g}", verdict))
    return table_lines(rows, "<>>><")


def absent(verdicts: Sequence[Verdict]) -> list[str]:
    """Entries that no report has: parts of a suite that were not run, or a removed quantity."""
    return [f"{one.entry.suite} {one.entry.name}" for one in verdicts if one.found is None]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs="+", help="reports of benchmarks.run (default: run some)")
    parser.add_argument("--baseline", type=Path, help="file (default: benchmarks/baselines/<device>.json)")
    parser.add_argument("--all", action="store_true", help="end with 2 if an entry is not in the reports")
    parser.add_argument("--write", action="store_true", help="make the baseline of these reports")
    args = parser.parse_args()
    try:
        return _write(args.reports, args.baseline) if args.write else _judge(args.reports, args.baseline, args.all)
    except (OSError, ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 2


def _judge(paths: Sequence[Path] | None, baseline: Path | None, wants_all: bool) -> int:
    reports = [read_report(path) for path in paths or ()]
    machine = machine_of(reports) if reports else this_machine(0.0)
    path = baseline or _path_of(machine)
    entries = read_baseline(path, machine)  # before minutes of measuring
    verdicts = judged(entries, reports or _quick_reports())
    print("\n".join(shown(verdicts)))
    missing = absent(verdicts)
    if missing:
        print(f"not in these reports, so not judged: {', '.join(missing)}", file=sys.stderr)
    if not any(one.found is not None for one in verdicts):
        print(f"{path} has nothing of what was measured", file=sys.stderr)
        return 2
    if any(one.is_lost for one in verdicts):
        return 1
    held = {f"{quick.suite} {name}" for quick in QUICK for name in quick.held} if not paths else set[str]()
    return 2 if held & set(missing) or (wants_all and missing) else 0


def _write(paths: Sequence[Path] | None, baseline: Path | None) -> int:
    reports = [read_report(path) for path in paths] if paths else _quick_reports()
    path = baseline or _path_of(machine_of(reports))
    gone = write_baseline(path, reports)
    print(f"wrote {path}" + (f"; no longer held: {', '.join(gone)}" if gone else ""), file=sys.stderr)
    return 0


def _quick_reports() -> list[Report]:
    from benchmarks.run import run

    return [run(quick.suite, Options(is_quick=True, only=(quick.case,))) for quick in QUICK]


def _path_of(machine: Machine) -> Path:
    return BASELINES / f"{device_key(machine)}.json"


if __name__ == "__main__":
    sys.exit(main())
