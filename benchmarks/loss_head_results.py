"""Recorded heads of the loss (loss_heads.py), as rows of a page.

In: benchmarks/results/loss_heads_ROWS.json. Out: a row for each head: what a pass takes on a GPU, counted at full size,
and what precision it has, measured at a small size on the machine that recorded it. Liger's kernels run there in
Triton's interpreter, which is slow: `precision_rows` are of a smaller vocabulary, as many times the width as at full
size, which gives Liger as many chunks (64). No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.machine import ROOT

VOCABULARIES = (193_920, 217_600)
"""Rows of Llama 3 and of Qwen 3 with codes and special tokens."""


SMALL_ROWS = 6144
PRECISION_HEAD = ("head", "error of hidden gradients", "error of weight gradients", "loss after the steps")


def precision_rows() -> Iterator[tuple[str, ...]]:
    """Rows under `PRECISION_HEAD`, all heads on one small problem."""
    for one in _read(SMALL_ROWS)["heads"]:
        yield (
            one["name"],
            *(f"{one[key]:.1e}" for key in ("hidden_error", "weight_error")),
            f"{one['loss_after']:.4f}",
        )


def _read(num_rows: int) -> dict[str, Any]:
    return json.loads((ROOT / f"benchmarks/results/loss_heads_{num_rows}.json").read_text(encoding="utf-8"))


def head_rows(num_rows: int) -> Iterator[tuple[str, ...]]:
    """Name, rows, launches, products, GB moved, peak, host syncs; and where they were measured, the error of weight
    gradients and the loss."""
    record = _read(num_rows)
    measured = {one["name"]: one for one in record["heads"]}
    for count in record["counted"]["heads"]:
        here = measured.get(count["name"])
        yield (
            count["name"],
            f"{num_rows:,}",
            *(f"{count[key]:,}" for key in ("num_launches", "num_products")),
            f"{count['moved_bytes'] / 1e9:.0f}",
            f"{count['peak_bytes'] / 1e9:.2f}",
            f"{count['num_host_syncs']}",
            f"{here['weight_error']:.1e}" if here else "",
            f"{here['loss_after']:.4f}" if here else "",
        )
