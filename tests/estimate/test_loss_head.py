"""The rule that chooses the head of the loss: few chunks, logits within the limit, and what heads were counted at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.loss_head_kinds import PER_TOKEN
from benchmarks.machine import ROOT
from scripts.recipe_headers import world_sizes
from titan_speech.estimate.loss_head import LOGITS_LIMIT_BYTES, choose_loss_head, loss_head
from titan_speech.estimate.offline import run_shape, run_vocabulary
from titan_speech.preflight.config_checks import load_config

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


@pytest.mark.parametrize("words", [f"train_configs/{name}.toml {size}" for name, size in world_sizes().items()])
def test_recipes_for_gpus_have_the_chunks_that_the_rule_chooses(words: str) -> None:
    recipe, world_size = words.split()
    config = load_config(["--job.config_file", str(ROOT / recipe)], world_size=int(world_size)).config
    if config.lora.is_on and not config.lora.train_new_rows:
        assert config.loss.num_chunks == 4, "a frozen head has no gradient to add up: those of all recipes"
        return
    layout, training, shape = config.parallelism, config.training, run_shape(config)[0]
    ranks = layout.tensor_parallel_degree * layout.context_parallel_degree
    seq_len = training.seq_len // layout.context_parallel_degree
    num_rows = run_vocabulary(config).vocabulary.num_rows // ranks
    chosen = choose_loss_head(training.local_batch_packs * training.seq_len, seq_len, num_rows, shape.dim)
    assert config.loss.num_chunks == chosen.num_chunks


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


def test_every_head_has_the_loss_of_full_logits_and_the_chunked_one_its_gradients() -> None:
    record = json.loads((ROOT / "benchmarks/results/loss_heads_6144.json").read_text("utf-8"))
    heads = {one["name"]: one for one in record["heads"]}
    assert heads.keys() == PER_TOKEN.keys()
    assert all(abs(one["loss_after"] - heads["full"]["loss_after"]) < 2e-3 for one in heads.values())
    assert heads["chunked"]["weight_error"] < 1.5 * heads["full"]["weight_error"]
    assert heads["liger, summed"]["weight_error"] > 2 * heads["chunked"]["weight_error"]
