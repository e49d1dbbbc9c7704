"""Training loss: in all, by kind of token, task, source and language."""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.report.blocks import Block, Charts, Section
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of, restarts, small_charts

UNIT = "nats per token"
GROUPS = {"kind": "By kind of token", "task": "By task", "source": "By source", "language": "By language"}
MAX_TOGETHER = 4
"""Groups that share one chart; more have a small chart each."""


def losses(runs: Sequence[Run]) -> Section | None:
    """The loss of training."""
    if not names_of(runs, "loss"):
        return None
    total = chart(runs, "Training loss", UNIT, {"loss": "loss"}, size="wide", marks=restarts(runs))
    blocks: list[Block] = [Charts([total])]
    together = []
    for group, title in GROUPS.items():
        names = names_of(runs, f"loss/{group}/")
        if len(runs) == 1 and 1 < len(names) <= MAX_TOGETHER:
            together.append(chart(runs, title, UNIT, {f"loss/{group}/{name}": name for name in names}))
        elif len(names) > 1:
            blocks.append(Charts(small_charts(runs, f"loss/{group}/", UNIT), f"{title}, {UNIT}"))
    if together:
        blocks.insert(1, Charts(together))
    lead = (
        "Cross-entropy of trained tokens, averaged over the steps between two records. "
        "A shaded area reaches from the lowest to the highest record of a point."
    )
    return Section("losses", "Training loss", lead, blocks)
