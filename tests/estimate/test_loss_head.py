"""The rule that chooses the head of the loss: few chunks, logits within the limit, and what heads were counted at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.machine import ROOT
from titan_speech.estimate.loss_head import LOGITS_LIMIT_BYTES, choose_loss_head, loss_head

RESULTS = [ROOT / f"benchmarks/results/loss_heads_{rows}.json" for rows in (193_920, 217_600)]


@pytest.mark.parametrize(
    ("packs", "num_rows", "num_chunks"), [(1, 193_920, 1), (2, 193_920, 2), (4, 193_920, 4), (8, 217_600, 8)]
)
def test_the_fewest_chunks_within_the_limit_are_chosen(packs: int, num_rows: int, num_chunks: int) -> None:
    chosen = choose_loss_head(packs * 2048, 2048, num_rows, 2048)
    assert chosen.num_chunks == num_chunks
    assert chosen.logits_bytes <= LOGITS_LIMIT_BYTES
    if num_chunks > 1:
        fewer = loss_head(num_chunks // 2, packs * 2048, num_rows, 2048)
        assert fewer.logits_bytes > LOGITS_LIMIT_BYTES
        assert fewer.sum_bytes < chosen.sum_bytes


def test_chunks_divide_the_sequence_even_if_the_limit_is_not_met() -> None:
    assert choose_loss_head(1_000_000, 24, 217_600, 2048).num_chunks == 8


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_what_was_counted_and_measured_supports_the_rule(path: Path) -> None:
    record = json.loads(path.read_text("utf-8"))
    counted = {one["name"]: one for one in record["counted"]["heads"]}
    chunked = counted["chunked"]
    assert chunked["num_products"] == 8 * 3, "logits, and the gradients of both factors"
    assert min(counted[name]["moved_bytes"] for name in ("torch", "liger")) > 4 * chunked["moved_bytes"]
    assert chunked["peak_bytes"] < counted["full"]["peak_bytes"] / 2
    assert min(counted[name]["num_host_syncs"] for name in ("liger", "liger, summed")) > 0
    assert chunked["num_host_syncs"] == counted["full"]["num_host_syncs"] == 0
    losses = [one["loss_after"] for one in record["heads"]]
    assert max(losses, default=0) - min(losses, default=0) < 1e-3
