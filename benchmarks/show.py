"""A report as a table for a terminal.

In: `Report`. Out: lines: what was measured of each case, then the ratios with their intervals and goals.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.record import Figure, Ratio, Report
from titan_speech.utils.text_table import table_lines


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
