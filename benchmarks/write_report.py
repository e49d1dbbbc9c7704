"""A dated report from the JSON of suites: Markdown and plots.

    python -m benchmarks.write_report --reports outputs/*.json --out benchmarks/reports/2026-01-31-cpu

In: reports, and in the folder `notes.md`, the words that no figure says: the question, why goals are missed, what was
tried, what was not measured. Out: in the folder the reports, the plots and `README.md`, which is the notes between what
the figures say: method and machine before, tables behind. Made again, it is the same but for what was measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.comparison import comparison
from benchmarks.plots import draw
from benchmarks.record import Ratio, Report, read_report
from benchmarks.run import SUITES
from benchmarks.show import number

NOTES = "notes.md"


def page(reports: Mapping[str, Report], notes: str, plots: Sequence[tuple[str, str]]) -> str:
    return "\n".join(
        [
            *_head(list(reports.values())),
            "",
            notes.strip(),
            "",
            "## Goals",
            *_goals(reports),
            *(line for name, caption in plots for line in ("", f"![{caption}]({name})", "", caption)),
            *(line for report in reports.values() for line in _suite(report)),
            "",
        ]
    )


def _head(reports: Sequence[Report]) -> Iterator[str]:
    machine = reports[0].machine
    dates = sorted({report.date[:10] for report in reports})
    yield f"# Benchmarks, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}: {machine.device}, {machine.cores} cores"
    yield ""
    for note in dict.fromkeys(report.note for report in reports if report.note):
        yield f"- **{note}**"
    yield ""
    revisions = ", ".join(sorted({report.machine.git_revision for report in reports}))
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    threads = " or ".join(str(one) for one in sorted({report.machine.num_threads for report in reports}))
    loads = [load for report in reports for load in (report.machine.load_before, report.machine.load_after)]
    yield (
        f"Revision {revisions}; {versions}; threads a process: {threads}; "
        f"{min(loads):.1f} to {max(loads):.1f} processes wanted one of {machine.cores} cores before and after the "
        "suites. Intervals are of the median at 95 % or more; of fewer than six values the range of all is given. Made "
        "from the JSON files beside this page by `python -m benchmarks.write_report`."
    )


def _goals(reports: Mapping[str, Report]) -> Iterator[str]:
    yield "| ratio | what | found (95 % interval, pairs) | goal | |"
    yield "|---|---|---|---|---|"
    for report in reports.values():
        for ratio in report.ratios:
            if ratio.goal is not None:
                yield f"| {ratio.name} | {ratio.what} | {_found(ratio)} | {ratio.goal} | {ratio.verdict} |"


def _found(ratio: Ratio) -> str:
    if len(ratio.values) == 1:
        return f"{ratio.median:.3f} (once)"
    count = f"{len(ratio.values)}" if len(ratio.values) >= 6 else f"all {len(ratio.values)}"
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}, {count})"


def _suite(report: Report) -> Iterator[str]:
    yield from ("", f"## {report.suite}", "")
    quick = ", --quick" if report.is_quick else ""
    yield f"[{report.suite}.json]({report.suite}.json), {report.date}, {report.seconds / 60:.0f} minutes{quick}."
    yield from ("", "| case | figure | median | 95 % interval | unit |", "|---|---|---|---|---|")
    for case in report.cases:
        for one in case.figures:
            interval = f"{number(one.low)} to {number(one.high)}" if len(one.values) > 1 else ""
            yield f"| {case.name} | {one.name} | {number(one.median)} | {interval} | {one.unit} |"
        for name, reason in case.not_measured.items():
            yield f"| {case.name} | {name} | not measured | {reason} | |"
    free = [ratio for ratio in report.ratios if ratio.goal is None]
    if free:
        yield from ("", "| ratio without a goal | what | found |", "|---|---|---|")
        yield from (f"| {ratio.name} | {ratio.what} | {_found(ratio)} |" for ratio in free)
    if report.suite == "train_step":
        yield from ("", "```", *comparison(report), "```")


def by_suite(reports: Sequence[Report]) -> dict[str, Report]:
    """Parts of a suite that were run one by one (--only) are one report.

    Raises:
        ValueError: reports of several devices, or of the same case.
    """
    devices = sorted({report.machine.device for report in reports})
    if len(devices) > 1:
        raise ValueError(f"found reports of {', '.join(devices)}; expected one device, give those of one at a time")
    found: dict[str, Report] = {}
    for report in reports:
        before = found.get(report.suite)
        found[report.suite] = report if before is None else _together(before, report)
    return {suite: found[suite] for suite in SUITES if suite in found}


def _together(one: Report, other: Report) -> Report:
    twice = {case.name for case in one.cases} & {case.name for case in other.cases}
    if twice:
        raise ValueError(f"{one.suite}: found {', '.join(sorted(twice))} in two reports; expected each case once")
    revisions = dict.fromkeys((one.machine.git_revision, other.machine.git_revision))
    machine = replace(
        one.machine,
        git_revision=", ".join(revisions),
        load_before=min(one.machine.load_before, other.machine.load_before),
        load_after=max(one.machine.load_after, other.machine.load_after),
    )
    return replace(
        one,
        machine=machine,
        seconds=one.seconds + other.seconds,
        is_quick=one.is_quick or other.is_quick,
        cases=one.cases + other.cases,
        ratios=one.ratios + other.ratios,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, nargs="+", required=True, help="JSON files of benchmarks.run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report; its notes.md is read")
    args = parser.parse_args()
    try:
        reports = by_suite([read_report(path) for path in args.reports])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    notes = args.out / NOTES
    text = notes.read_text(encoding="utf-8") if notes.exists() else ""
    for report in reports.values():
        report.write(args.out / f"{report.suite}.json")
    plots = list(draw(reports, args.out))
    (args.out / "README.md").write_text(page(reports, text, plots), encoding="utf-8")


if __name__ == "__main__":
    main()
