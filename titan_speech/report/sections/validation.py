"""Validation: losses and perplexity on held-out samples, and the difference to the training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from titan_speech.report.blocks import Block, Cell, Charts, Section, Table
from titan_speech.report.chart import Chart, value_text
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import SMALL_POINTS, chart, lines_of, names_of, restarts, x_name
from titan_speech.report.sections.training_curves import GROUPS, UNIT


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
            chart(runs, f"Loss on {name}", UNIT, compared, marks=restarts(runs)),
            chart(runs, f"Perplexity on {name}", "", {f"{prefix}perplexity": "perplexity"}, is_log=True),
        ]
        blocks.append(Charts(charts))
        blocks.append(_table(runs, name, prefix))
        languages = names_of(runs, f"{prefix}loss/language/")
        if len(languages) > 1:
            small = [
                Chart(
                    language,
                    UNIT,
                    lines_of(runs, {f"{prefix}loss/language/{language}": language}, SMALL_POINTS),
                    x_name=x_name(runs),
                    size="small",
                )
                for language in languages
            ]
            blocks.append(Charts(small, f"Loss on {name} by language, {UNIT}"))
    lead = "Samples that training never reads, weighted by tokens over all ranks."
    return Section("validation", "Validation", lead, blocks)


def _table(runs: Sequence[Run], name: str, prefix: str) -> Table:
    """First, best and last loss of each group."""
    rows = []
    groups = [("", "all tokens"), *((f"/{kind}/", title.lower()) for kind, title in GROUPS.items())]
    for run in runs:
        for group, _ in groups:
            keys = [""] if not group else [group + key for key in run.log.names(f"{prefix}loss{group}")]
            for key in keys if group != "/language/" else []:
                column = run.log.column(f"{prefix}loss{key}")
                if not column.steps:
                    continue
                values, best = list(column.values), min(column.values)
                where = column.steps[values.index(best)]
                tokens = run.log.column(f"{prefix}tokens{key}")
                tone = "warn" if column.last > best * 1.02 and len(values) > 2 else ""
                rows.append(
                    (
                        Cell(key.strip("/").replace("/", " ") or "all tokens", color=_color(run, runs)),
                        f"{int(tokens.last):,}" if tokens.steps else "–",
                        f"{values[0]:.4f}",
                        f"{best:.4f} at step {where:,}",
                        Cell(f"{column.last:.4f}", tone, title="above the best by more than 2 %" if tone else ""),
                        value_text(math.exp(min(column.last, 700.0))),
                    )
                )
    heads = ("Group", "Tokens", "First loss", "Best loss", "Last loss", "Last perplexity")
    return Table(heads, rows, f"Losses on {name} in {UNIT}. Marked: a last loss more than 2 % above the best.")


def _color(run: Run, runs: Sequence[Run]) -> str:
    return f"c{run.color}" if len(runs) > 1 else ""
