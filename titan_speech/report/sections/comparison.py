"""A run against a reference: its curves in their bands, and where it leaves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from titan_speech.report.blocks import Block, Cell, Charts, Paragraph, Section, Table
from titan_speech.report.chart import Band, Chart, Line
from titan_speech.report.metrics_log import Curve
from titan_speech.report.reference import RecipeReference, ReferenceCurve, compare
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import lines_of
from titan_speech.report.sections.training_curves import LOSS_UNIT


def comparison(reference: RecipeReference) -> Callable[[Sequence[Run]], Section]:
    """The section of a reference."""

    def section(runs: Sequence[Run]) -> Section:
        blocks: list[Block] = [
            Charts([_chart(runs, name, curve) for name, curve in reference.curves.items() if _is_drawn(name, curve)])
        ]
        for run in runs:
            found = compare(run, reference)
            rows = [
                (
                    one.metric,
                    f"{one.num_compared:,}",
                    Cell(f"{one.num_outside:,}", "warn" if one.left_at is not None else ""),
                    Cell(
                        "never" if one.left_at is None else f"step {one.left_at:,}",
                        "" if one.left_at is None else "bad",
                    ),
                    f"{one.value:.4g}",
                    f"{one.low:.4g} to {one.high:.4g}",
                )
                for one in found
            ]
            name = f"{run.name}: " if len(runs) > 1 else ""
            if rows:
                heads = ("Metric", "Steps compared", "Outside", "Left the band at", "Value there", "Band there")
                caption = f"{name}against the reference {reference.name}. Left: two records in a row outside."
                blocks.append(Table(heads, rows, caption))
            else:
                blocks.append(Paragraph(f"{name}no metric at a step of the reference.", "warn"))
        return Section("reference", f"Against {reference.name}", reference.about, blocks)

    return section


def _is_drawn(name: str, curve: ReferenceCurve) -> bool:
    return len(curve.steps) > 1 and not name.endswith(("perplexity", "/tokens", "/sec")) and "/tokens/" not in name


def _chart(runs: Sequence[Run], metric: str, curve: ReferenceCurve) -> Chart:
    """The lines of the runs on the band of the reference."""
    return Chart(
        metric,
        LOSS_UNIT if "loss" in metric else "",
        (*lines_of(runs, {metric: "run"}), reference_line(curve)),
        bands=(band(curve),),
    )


def reference_line(curve: ReferenceCurve) -> Line:
    """The mean of a reference."""
    mean_P = np.array(curve.mean)
    return Line("reference", Curve(np.array(curve.steps, float), mean_P, mean_P, mean_P), is_reference=True)


def band(curve: ReferenceCurve) -> Band:
    """The band of a reference."""
    return Band("band", np.array(curve.steps, float), np.array(curve.low), np.array(curve.high))
