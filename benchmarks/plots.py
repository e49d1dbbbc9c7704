"""Plots of reports as PNG, by matplotlib (`pip install -e '.[benchmarks]'`).

In: reports by suite. Out: files, and the line that says what each shows. A point is a median, its bar the 95 %
interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Case, Figure, Ratio, Report
from benchmarks.trace_split import PARTS

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
        yield "sft_rates.png", "Trained tokens a second on the bundled paired speech, and padding."
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
    axes.set_xlabel("trained tokens a second")
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
