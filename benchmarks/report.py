"""Reports of the suites as tables, plots and a dated page.

    python -m benchmarks.report --reports outputs/*.json --out benchmarks/reports/2026-01-31-cpu

In: JSON reports, and in the output folder `notes.md`: the question, why goals are missed, what was tried, what was not
measured. Out: in that folder the reports, the plots (matplotlib, `pip install -e '.[benchmarks]'`; a point is a median,
its bar the 95 % interval) and `README.md`: the notes between method, machine and tables. A second run changes only what
was measured again. `table_lines` prints one report in a terminal. With published runs, rates are compared on H100s and
MFU on any other device.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import device_key
from benchmarks.record import Case, Figure, Ratio, Report, read_report
from benchmarks.references import aims, flops_per_token, mfu, published
from benchmarks.suite import SUITES
from benchmarks.trace_split import PARTS
from titan_speech.utils.text_table import table_lines

PUBLISHED_ON = "h100"


def comparison(report: Report) -> list[str]:
    device = device_key(report.machine)
    is_same = device == PUBLISHED_ON
    by = "tokens/s/GPU" if is_same else "MFU (published on H100s, so rates are not compared)"
    cases = {case.name: case for case in report.cases}
    head = ("case", "here: tokens/s/GPU", "here: MFU", "published or aimed at", "tokens/s/GPU", "MFU", "here over it")
    rows: list[tuple[str, ...]] = [head]
    for one in published():
        rows.append(_row(cases.get(one.case), one.case, one.name, one.rate, one.mfu, is_same))
    for aim in aims():
        if aim.figure == "tokens_per_sec_per_gpu":
            flops = flops_per_token("llama3", "1B" if "1b" in aim.case else "8B", 193_856, 2048)
            at = mfu(aim.goal.value, flops, PUBLISHED_ON)
            rows.append(_row(cases.get(aim.case), aim.case, f"goal: {aim.why}", aim.goal.value, at, is_same))
    note = "" if report.machine.is_gpu and not report.is_dry_run else "; no GPU was measured"
    return [f"compared by {by}{note}", *(f"  {line}" for line in table_lines(rows, "<>"))]


def _row(case: Case | None, name: str, other: str, rate: float, at_mfu: float, is_same: bool) -> tuple[str, ...]:
    found = {figure.name: figure.median for figure in case.figures} if case is not None else {}
    mine, my_mfu = found.get("tokens_per_sec_per_gpu"), found.get("mfu")
    over = (mine / rate if mine else None) if is_same else (my_mfu / at_mfu if my_mfu else None)
    return (
        name,
        f"{mine:,.0f}" if mine else "not measured",
        f"{my_mfu:.1%}" if my_mfu else "-",
        other,
        f"{rate:,.0f}",
        f"{at_mfu:.1%}",
        f"{over:.2f}" if over else "-",
    )


def lines(report: Report) -> Iterator[str]:
    machine = report.machine
    yield f"{report.suite}, {report.date}, {machine.device}, {machine.cores} cores, revision {machine.git_revision}"
    if report.note:
        yield report.note
    for case in report.cases:
        yield f"{case.name}: {case.what}"
        rows = [_figure(figure) for figure in case.figures]
        rows += [(name, "", "", f"not measured: {reason}") for name, reason in case.not_measured.items()]
        yield from (f"  {line}" for line in table_lines(rows, "<>><"))
    if report.ratios:
        yield "ratios, median of pairs (95 % interval)"
        yield from (f"  {line}" for line in table_lines([_ratio(ratio) for ratio in report.ratios], "<>>><"))


def _figure(figure: Figure) -> tuple[str, ...]:
    interval = f"{number(figure.low)} to {number(figure.high)}" if len(figure.values) > 1 else ""
    return (figure.name, number(figure.median), interval, figure.unit)


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    verdict = ratio.verdict if ratio.goal is None else f"{ratio.goal}: {ratio.verdict}"
    return (ratio.name, f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", ratio.what, verdict)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
INK, MARK, RIVAL = "#333333", "#1f77b4", "#b0b0b0"


def draw(reports: Mapping[str, Report], folder: Path) -> Iterator[tuple[str, str]]:
    """File name and caption of each plot that these reports allow."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    with_goals = [ratio for report in reports.values() for ratio in report.ratios if ratio.goal is not None]
    if with_goals:
        _ratios(with_goals, folder / "goals.png")
        yield "goals.png", "Ratios that have a goal: median of pairs, 95 % interval, and the goal (dashed)."
    if "sft_packing" in reports:
        cases = [case for case in reports["sft_packing"].cases if case.figures]
        _rates(cases, folder / "sft_rates.png")
        yield "sft_rates.png", "Trained tokens per second on the bundled paired speech, and padding."
    if "train_step" in reports:
        shares = _shares(reports["train_step"].cases)
        if shares:
            _split(shares, folder / "split.png")
            yield "split.png", "What the time of a step goes to, from the trace of a steady state."
    if "startup" in reports and any(case.name.startswith("samples_") for case in reports["startup"].cases):
        _growth(reports["startup"].cases, folder / "growth.png")
        yield "growth.png", "Costs as the data grows; the first plan counts every sample once."


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), dpi=120)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)


def _ratios(ratios: Sequence[Ratio], path: Path) -> None:
    figure, axes = _axes(8, 1 + 0.3 * len(ratios))
    for place, ratio in enumerate(reversed(ratios)):
        assert ratio.goal is not None
        color = "#2ca02c" if ratio.is_met else "#d62728"
        axes.plot([ratio.low, ratio.high], [place, place], color=color, linewidth=2)
        axes.plot([ratio.median], [place], "o", color=color)
        axes.plot([ratio.goal.value] * 2, [place - 0.35, place + 0.35], "--", color=INK, linewidth=1)
    axes.set_yticks(range(len(ratios)), [ratio.name for ratio in reversed(ratios)], fontsize=8)
    axes.set_xscale("log")
    axes.minorticks_off()
    shown = [tick for tick in TICKS if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xlabel("ratio (green: goal met, red: missed)")
    _save(figure, path)


def _rates(cases: Sequence[Case], path: Path) -> None:
    figure, axes = _axes(8, 1 + 0.4 * len(cases))
    found = [case.figure("trained_tokens_per_sec_per_gpu") for case in cases]
    places = range(len(cases) - 1, -1, -1)
    errors = [[one.median - one.low for one in found], [one.high - one.median for one in found]]
    colors = [MARK if case.name.startswith("ours") else RIVAL for case in cases]
    axes.barh(places, [one.median for one in found], xerr=errors, color=colors, ecolor=INK, height=0.6)
    for place, case, rate in zip(places, cases, found, strict=True):
        text = f" {rate.median:,.0f}, {case.figure('pad_fraction').median:.0%} padding"
        axes.text(rate.high, place, text, va="center", fontsize=8)
    axes.set_xlim(0, 1.35 * max(one.high for one in found))
    axes.set_yticks(places, [case.name for case in cases], fontsize=8)
    axes.set_xlabel("trained tokens per second")
    _save(figure, path)


def _shares(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Case -> part -> share of the step."""
    found: dict[str, dict[str, float]] = {}
    for case in cases:
        shares = {one.name.removeprefix("share_"): one.median for one in case.figures if one.name.startswith("share_")}
        if shares:
            found[case.name] = shares
    return found


def _split(shares: Mapping[str, Mapping[str, float]], path: Path) -> None:
    figure, axes = _axes(8, 1.3 + 0.5 * len(shares))
    left = dict.fromkeys(shares, 0.0)
    for part in (*PARTS, "idle"):
        sizes = [of_case.get(part, 0.0) for of_case in shares.values()]
        if any(sizes):
            label = f"{part} {sizes[0]:.1%}" if len(shares) == 1 else part
            axes.barh(list(shares), sizes, left=list(left.values()), label=label, height=0.5)
            left = {name: left[name] + size for name, size in zip(shares, sizes, strict=True)}
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of a step")
    axes.legend(ncols=3, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.02), frameon=False)
    _save(figure, path)


def _growth(cases: Sequence[Case], path: Path) -> None:
    figure, axes = _axes(8, 4)
    of_stores = [case for case in cases if case.name.startswith("samples_")]
    counts = [int(case.name.removeprefix("samples_")) for case in of_stores]
    labels = {
        "first_plan_sec": "first plan",
        "later_plan_sec": "later plan",
        "start_sec": "start to first step",
        "resume_sec": "resume to first step",
        "step_sec": "a step",
    }
    for key, label in labels.items():
        found: list[Figure] = [case.figure(key) for case in of_stores]
        errors = [[one.median - one.low for one in found], [one.high - one.median for one in found]]
        axes.errorbar(counts, [one.median for one in found], yerr=errors, marker="o", capsize=3, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("samples of the store")
    axes.set_ylabel("seconds")
    axes.legend(fontsize=8, frameon=False)
    _save(figure, path)


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
        f"Revision {revisions}; {versions}; threads per process: {threads}; "
        f"{min(loads):.1f} to {max(loads):.1f} processes wanted one of {machine.cores} cores before and after the "
        "suites. Intervals are of the median at 95 % or more; of fewer than six values the range of all is given. Made "
        "from the JSON files next to this page by `python -m benchmarks.report`."
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
