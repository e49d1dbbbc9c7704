"""Learning rate, gradient norm, and steps that were skipped."""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.report.blocks import Charts, Section
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of, restarts


def optimization(runs: Sequence[Run]) -> Section | None:
    """What the optimizer did."""
    if not names_of(runs, "grad_norm") and not names_of(runs, "lr"):
        return None
    charts = [
        chart(runs, "Learning rate", "", {"lr": "learning rate"}, from_zero=True),
        chart(runs, "Gradient norm", "", {"grad_norm": "gradient norm"}, is_log=True, marks=restarts(runs)),
    ]
    charts += [
        chart(runs, title, unit, {name: title.lower()}, from_zero=True)
        for name, title, unit in (
            ("skipped_steps", "Skipped steps", "steps since the start"),
            ("loss_spikes", "Loss spikes", "since the start"),
        )
        if any(run.log.column(name).steps and run.log.column(name).last for run in runs)
    ]
    lead = "The norm is that of all gradients before clipping."
    return Section("optimization", "Optimizer", lead, [Charts(charts)])
