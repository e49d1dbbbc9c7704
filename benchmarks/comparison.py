"""What was measured beside what is published and aimed at.

In: a report of train_step. Out: a table. On H100s rates stand beside rates; on any other device rates say little, MFU
is what is compared, and the table says so.
"""

from __future__ import annotations

from benchmarks.machine import device_key
from benchmarks.record import Case, Report
from benchmarks.references import aims, flops_per_token, mfu, published
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
