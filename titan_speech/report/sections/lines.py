"""Lines of charts from the metrics of runs: what all sections share.

In: runs, and the names of metrics. Out: `Line`s and `Chart`s. With one run, the lines of a chart are its metrics, each
in a color of its own; with several, a chart has one metric, and the lines are the runs in their colors. Runs with
equal tokens per step are drawn over steps, others over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from titan_speech.report.chart import NUM_COLORS, Chart, ChartMark, Line
from titan_speech.report.metrics_log import MAX_POINTS, curve_of
from titan_speech.report.run import Run

SMALL_POINTS = 120


def over_tokens(runs: Sequence[Run]) -> bool:
    """Whether the horizontal axis counts tokens, since the steps of the runs have different ones."""
    sizes = {run.tokens_per_step for run in runs}
    return len(sizes) > 1 and min(sizes) > 0


def x_name(runs: Sequence[Run]) -> str:
    return "tokens" if over_tokens(runs) else "step"


def x_per_step(run: Run, runs: Sequence[Run]) -> float:
    return float(run.tokens_per_step) if over_tokens(runs) else 1.0


def lines_of(runs: Sequence[Run], metrics: Mapping[str, str], max_points: int = MAX_POINTS) -> tuple[Line, ...]:
    """A line per run and metric that has values.

    Args:
        runs: of the page.
        metrics: labels by names of metrics.
        max_points: of a line.
    """
    lines = []
    for run in runs:
        for number, (name, label) in enumerate(metrics.items()):
            column = run.log.column(name)
            if not column.steps:
                continue
            several = len(metrics) > 1
            text = run.name if len(runs) > 1 and not several else f"{run.name}: {label}" if len(runs) > 1 else label
            color = run.color if len(runs) > 1 else number
            curve = curve_of(column, x_per_step(run, runs), max_points)
            dashed = color >= NUM_COLORS or (len(runs) > 1 and number > 0)
            lines.append(Line(text, curve, color, dashed))
    return tuple(lines)


def chart(runs: Sequence[Run], title: str, unit: str, metrics: Mapping[str, str], **options: Any) -> Chart:
    """One chart of these metrics."""
    points = SMALL_POINTS if options.get("size") == "small" else MAX_POINTS
    return Chart(title, unit, lines_of(runs, metrics, points), x_name=x_name(runs), **options)


def small_charts(
    runs: Sequence[Run], prefix: str, unit: str, *, title_of: Callable[[str], str] = str, **options: Any
) -> list[Chart]:
    """A small chart per metric whose name begins with `prefix`."""
    return [
        chart(runs, title_of(name), unit, {prefix + name: name}, size="small", **options)
        for name in names_of(runs, prefix)
    ]


def restarts(runs: Sequence[Run]) -> tuple[ChartMark, ...]:
    """Where runs were started again."""
    return tuple(
        ChartMark(start.step * x_per_step(run, runs), f"{run.name if len(runs) > 1 else 'run'} started again here")
        for run in runs
        for start in run.log.starts[1:]
    )


def names_of(runs: Sequence[Run], prefix: str) -> list[str]:
    """What follows a prefix in the names of all runs."""
    return sorted({name for run in runs for name in run.log.names(prefix)})
