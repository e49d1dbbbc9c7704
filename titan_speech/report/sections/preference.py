"""Preference training: loss, accuracy and margin of pairs, and how far the chosen answers drift from the reference.

In: `preference/NAME` of metrics.jsonl, and `validation/SET/preference/NAME` of held-out pairs. Out: charts.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.report.blocks import Block, Charts, Section
from titan_speech.report.chart import Chart
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of

PREFIX = "preference/"
CHARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Loss of pairs", "", ("loss",)),
    ("Accuracy", "of pairs", ("accuracy",)),
    ("Margin", "reward", ("margin",)),
    ("Rewards", "", ("chosen_reward", "rejected_reward")),
    ("Log-probability", "nats per token", ("chosen_logp", "rejected_logp")),
    ("Drift of chosen answers", "nats per token", ("chosen_drift",)),
)
"""Title, unit and metrics of each chart."""


def preference(runs: Sequence[Run]) -> Section | None:
    """What became of the pairs."""
    if not any("/" not in name for name in names_of(runs, PREFIX)):
        return None
    blocks: list[Block] = [Charts(_charts(runs, PREFIX))]
    sets = sorted({name.split("/")[0] for name in names_of(runs, "validation/") if f"/{PREFIX}" in name})
    blocks += [Charts(_charts(runs, f"validation/{one}/{PREFIX}"), f"Held-out pairs of {one}") for one in sets]
    lead = (
        "A margin that grows while the log-probability of the chosen answers falls is the usual failure: lower the "
        "rate, raise preference.beta or set preference.sft_weight."
    )
    return Section("preference", "Preference training", lead, blocks)


def _charts(runs: Sequence[Run], prefix: str) -> list[Chart]:
    return [
        chart(runs, title, unit, {prefix + name: name for name in names}, size="small", is_share=title == "Accuracy")
        for title, unit, names in CHARTS
    ]
