"""Steps that were compiled, as files and as tables.

In: records of steps (compile_for_gpu.py). Out: the JSON beside the benchmarks, a table for a terminal, and one for
docs/parallelism.md, where a row is a recipe with its two precisions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.deviceless.findings import PRODUCTS
from benchmarks.machine import ROOT, git_revision, versions, write_results
from titan_speech.utils.text_table import table_lines

Step = Mapping[str, Any]
RESULTS = ROOT / "benchmarks/results/compile_for_gpu.json"
LEVER_RESULTS = ROOT / "benchmarks/results/compile_for_gpu_levers.json"


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The steps of a file; none if there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["steps"] if path.exists() else []


def write_steps(path: Path, architecture: str, steps: Sequence[Step]) -> None:
    """Replace a file by these steps."""
    about = {"architecture": architecture, "git_revision": git_revision(), "versions": versions()}
    write_results(path, {**about, "steps": steps})


def terminal_table(steps: Sequence[Step]) -> list[str]:
    """A row for each step."""
    head = (
        "step", "graphs", "kernels", "launches", "registers", "shared", "spilled", "layer", "loss", "calls outside",
        "verdict",
    )  # fmt: skip
    return table_lines([head, *(_terminal_row(step) for step in steps)], "<>>>>>>>><<")


def _terminal_row(step: Step) -> tuple[str, ...]:
    one = step["summary"]
    return (
        step["name"],
        *(f"{one[f'num_{name}']:,}" for name in ("graphs", "kernels", "launches")),
        *(f"{one[f'max_{name}']:,}" for name in ("registers", "shared_bytes", "spilled_bytes")),
        *(f"{one[key] / 1e9:.2f} GB" for key in ("layer_bytes", "loss_bytes")),
        ", ".join(f"{times} {name}" for name, times in sorted(one["extern"].items())),
        verdict(step),
    )


def verdict(step: Step) -> str:
    """`sound`, or how many findings."""
    return "sound" if not step["findings"] else f"{len(step['findings'])} findings"


RECIPE_HEAD = (
    *("recipe", "packs per pass", "recomputation", "bf16: launches", "GB per layer"),
    *("float8: launches", "GB per layer", "chunks of the loss", "GB of the head", "findings"),
)


def recipe_rows(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """Rows for a page, under `RECIPE_HEAD`: a recipe, and those that compile to the same step, in both precisions."""
    by_recipe: dict[str, dict[str, Step]] = {}
    for step in steps:
        recipe, _, precision = step["name"].partition(" ")
        by_recipe.setdefault(recipe, {})[precision] = step
    for step in (step for step in steps if step["name"].endswith("bf16")):
        recipe = step["name"].partition(" ")[0]
        found = by_recipe[recipe]
        sizes = step["sizes"]
        yield (
            ", ".join(f"`{name}`" for name in (recipe, *step["like"])),
            f"{sizes['packs']} of {sizes['seq_len']:,}",
            sizes["recomputation"],
            *_layer(step),
            *(_layer(found["float8"]) if "float8" in found else ("", "bf16 alone")),
            str(sizes["head"]["num_chunks"]),
            _head(step)[1],
            str(sum(len(one["findings"]) for one in found.values())),
        )


def _layer(step: Step) -> tuple[str, str]:
    one = step["summary"]
    return f"{one['num_launches']:,}" if "num_launches" in one else "", f"{one['layer_bytes'] / 1e9:.2f}"


LEVER_HEAD = (
    "change", "launches", "products", "shared KB", "GB per layer", "head: launches", "GB", "peak GB", "verdict",
)  # fmt: skip


def lever_rows(steps: Sequence[Step]) -> Iterator[tuple[str, ...]]:
    """Rows for a page, under `LEVER_HEAD`; the first step is the one without a change."""
    for step in steps:
        yield (step["name"].partition(": ")[2], *_measures(step), *_head(step), verdict(step))


def _measures(step: Step) -> tuple[str, ...]:
    one = step["summary"]
    products = sum(times for name, times in one["extern"].items() if name in PRODUCTS)
    return (
        f"{one['num_launches']:,}",
        f"{products}",
        f"{one['max_shared_bytes'] / 1024:.0f}",
        f"{one['layer_bytes'] / 1e9:.2f}",
    )


def _head(step: Step) -> tuple[str, str, str]:
    """Launches, GB moved and GB held of head and loss, all chunks."""
    head = step["sizes"]["head"]
    return f"{head['num_launches']:,}", f"{head['moved_bytes'] / 1e9:.1f}", f"{head['peak_bytes'] / 1e9:.2f}"
