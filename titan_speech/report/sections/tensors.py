"""Norms of weights, gradients, updates and activations by layer, where a run measured them."""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.report.blocks import Block, Charts, Section, Table
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of

WEIGHT, GRADIENT, UPDATE, ACTIVATION = "weight", "gradient", "update", "activation_rms"
TITLES = {
    WEIGHT: "Norm of weights",
    GRADIENT: "Norm of gradients",
    UPDATE: "Norm of updates",
    ACTIVATION: "Outputs of layers, root mean square",
}
LAYERS = "layers/"
ROWS = ("embedding/old_rows", "embedding/new_rows", "head/old_rows", "head/new_rows")


def tensors(runs: Sequence[Run]) -> Section | None:
    """How large the tensors of each layer are, and how much a step changes them."""
    if not names_of(runs, "tensors/"):
        return None
    charts = []
    for quantity, title in TITLES.items():
        groups = _shown(names_of(runs, f"tensors/{quantity}/"))
        names = {f"tensors/{quantity}/{group}": group.replace("_", " ") for group in groups}
        charts.append(chart(runs, title, "", names, is_log=True))
    blocks: list[Block] = [Charts(charts)]
    blocks += [_table(run, of_several=len(runs) > 1) for run in runs if run.log.names("tensors/")]
    lead = "The charts have old and new rows of the vocabulary, and the first, the middle and the last layer."
    return Section("tensors", "Tensors", lead, blocks)


def _shown(groups: Sequence[str]) -> list[str]:
    layers = _layers(groups)
    some = dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1])) if layers else {}
    return [*(group for group in ROWS if group in groups), *some]


def _layers(groups: Sequence[str]) -> list[str]:
    def number_of(group: str) -> int:
        digits = group.removeprefix(LAYERS)
        return int(digits) if digits.isdecimal() and len(digits) < 9 else -1

    return sorted((group for group in groups if group.startswith(LAYERS)), key=number_of)


def _table(run: Run, *, of_several: bool) -> Table:
    """All groups at the last step that was measured."""
    known = {group for quantity in TITLES for group in run.log.names(f"tensors/{quantity}/")}
    layers = _layers(sorted(known))
    groups = [*(group for group in ROWS[:2] if group in known), *layers]
    groups += [group for group in ("norm", *ROWS[2:]) if group in known]
    rows = []
    for group in groups:
        last = {quantity: run.log.column(f"tensors/{quantity}/{group}") for quantity in TITLES}
        values = {quantity: column.last for quantity, column in last.items() if column.steps}
        ratio = values[UPDATE] / values[WEIGHT] if UPDATE in values and values.get(WEIGHT) else None
        texts = [f"{values[quantity]:.4g}" if quantity in values else "" for quantity in TITLES]
        rows.append((group.replace("_", " "), *texts, f"{ratio:.2e}" if ratio is not None else ""))
    measured = (run.log.column(f"tensors/{name}") for name in run.log.names("tensors/"))
    step = max((column.steps[-1] for column in measured if column.steps), default=0)
    caption = f"{run.name}: " if of_several else ""
    heads = ("Group", "Weights", "Gradients", "Updates", "Outputs", "Update / weights")
    return Table(heads, rows, f"{caption}Norms at step {step:,}", is_folded=True)
