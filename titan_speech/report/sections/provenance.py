"""What made a run: versions, revisions, data, layout, configuration; and in which settings runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from titan_speech.report.blocks import Block, Details, Facts, Section, Table
from titan_speech.report.run import Run
from titan_speech.utils.printable import redact
from titan_speech.utils.text_table import large

FIELDS = {
    "versions": "Versions",
    "git_revision": "Revision of the working directory",
    "source_revision": "Revision of titan_speech",
    "model": "Backbone",
    "initial": "First weights",
    "stage_from": "Previous stage",
    "lora": "LoRA",
    "base": "Base of the adapter",
    "vocabulary": "Vocabulary",
    "grammar": "Prompt grammar",
    "plan": "Data plan",
    "stores": "Stores",
    "world_size": "Ranks",
    "layout": "Layout",
}
MAX_DIFFERENCES = 200


def provenance(runs: Sequence[Run]) -> Section | None:
    """Where each run comes from."""
    blocks: list[Block] = []
    if len(runs) > 1 and (differences := _differences(runs)):
        blocks.append(differences)
    for run in runs:
        facts = [("Run", f"{run.folder}"), *_facts(run)]
        blocks.append(Facts(facts))
        if run.config_text:
            name = f" of {run.name}" if len(runs) > 1 else ""
            blocks.append(Details(f"Resolved configuration{name}", redact(run.config_text)))
    return Section("provenance", "Provenance", "As the newest checkpoint records it.", blocks)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    description = run.setting("job", "description")
    if isinstance(description, str) and description:
        yield "Description", description
    if run.tokens_per_step:
        yield "Tokens per step", f"{run.tokens_per_step:,}"
        yield "Steps", f"{run.num_steps:,} for {large(run.num_steps * run.tokens_per_step)} tokens"
    for key, title in FIELDS.items():
        value = run.provenance.get(key)
        if value:
            yield title, redact(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _differences(runs: Sequence[Run]) -> Table | None:
    """The settings in which the runs differ."""
    settings = [dict(_flat(run.config)) for run in runs]
    rows = []
    for key in sorted(set().union(*settings)):
        values = [one.get(key, "–") for one in settings]
        if len(set(values)) > 1 and key != "job.dump_folder":
            rows.append((key, *(redact(value[:200]) for value in values)))
    if not rows:
        return None
    heads = ("Setting", *(run.name for run in runs))
    return Table(heads, rows[:MAX_DIFFERENCES], "Settings in which the runs differ", num_words=len(heads))


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and node and isinstance(node[0], Mapping):
        for number, value in enumerate(node):
            yield from _flat(value, f"{key}.{number}")
    else:
        yield key, str(node)
