"""Validation: losses and perplexity on held-out samples, and the difference to the training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from titan_speech.report.blocks import Block, Cell, Charts, Section, Table
from titan_speech.report.chart import value_text
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of, restarts, small_charts
from titan_speech.report.sections.training_curves import GROUPS, LOSS_UNIT


def validation(runs: Sequence[Run]) -> Section | None:
    """The validation of every set."""
    found = names_of(runs, "validation/")
    sets = sorted({name.split("/")[0] for name in found if name.count("/") >= 1})
    if not sets:
        return None
    blocks: list[Block] = []
    for name in sets:
        prefix = f"validation/{name}/"
        compared = {f"{prefix}loss": "validation", "loss": "training"} if len(runs) == 1 else {f"{prefix}loss": name}
        charts = [
            chart(runs, f"Loss on {name}", LOSS_UNIT, compared, marks=restarts(runs)),
            chart(runs, f"Perplexity on {name}", "", {f"{prefix}perplexity": "perplexity"}, is_log=True),
        ]
        blocks.append(Charts(charts))
        blocks.append(_table(runs, name, prefix))
        by_language = small_charts(runs, f"{prefix}loss/language/", LOSS_UNIT)
        if len(by_language) > 1:
            blocks.append(Charts(by_language, f"Loss on {name} by language, {LOSS_UNIT}"))
    lead = "Samples that training never reads, weighted by tokens over all ranks."
    return Section("validation", "Validation", lead, blocks)


def _table(runs: Sequence[Run], name: str, prefix: str) -> Table:
    """First, best and last loss of each group."""
    rows = []
    for run in runs:
        color = f"c{run.color}" if len(runs) > 1 else ""
        groups = [f"/{kind}/" for kind in GROUPS if kind != "language"]
        keys = ["", *(group + key for group in groups for key in run.log.names(f"{prefix}loss{group}"))]
        for key in keys:
            column = run.log.column(f"{prefix}loss{key}")
            if not column.steps:
                continue
            values, best = list(column.values), min(column.values)
            where = column.steps[values.index(best)]
            tokens = run.log.column(f"{prefix}tokens{key}")
            tone = "warn" if column.last > best * 1.02 and len(values) > 2 else ""
            rows.append(
                (
                    Cell(key.strip("/").replace("/", " ") or "all tokens", color=color),
                    f"{int(tokens.last):,}" if tokens.steps else "–",
                    f"{values[0]:.4f}",
                    f"{best:.4f} at step {where:,}",
                    Cell(f"{column.last:.4f}", tone, title="above the best by more than 2 %" if tone else ""),
                    value_text(math.exp(min(column.last, 700.0))),
                )
            )
    heads = ("Group", "Tokens", "First loss", "Best loss", "Last loss", "Last perplexity")
    return Table(heads, rows, f"Losses on {name} in {LOSS_UNIT}. Marked: a last loss more than 2 % above the best.")
