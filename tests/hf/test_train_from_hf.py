"""Backbones of both families through real runs: in, trained, out, at one process and at two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.greedy import assert_same_greedy
from tests.support.hf_folders import ALL_KINDS, Backbone, write_backbone, write_run
from tests.support.runs import assert_close, losses, train_well
from titan_speech.checkpoint.provenance import read_provenance
from titan_speech.generate.load import load_run
from titan_speech.hf.expand import expand
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.hf.row_initialization import NewRows

pytestmark = pytest.mark.slow

TEN_STEPS = ("--training.target_tokens", "10240")
STANDING_STILL = (*TEN_STEPS, "--optimizer.lr", "1e-30", "--lr_scheduler.end_lr", "1e-30")
"""Updates that vanish beside any weight: what comes out is what went in."""


def extended(folder: Path, kind: Backbone) -> Path:
    write_backbone(folder / "base", kind)
    if kind.num_rows is not None:  # the bundled tokenizer has fewer entries, and says so
        (folder / "base" / "recipe.json").write_text(json.dumps({"num_base": kind.num_rows}))
    expand(folder / "base", folder / "extended", NewRows(), lambda _: None)
    return folder / "extended"


def start_from(initial: Path, kind: Backbone) -> tuple[str, ...]:
    return ("--model.initial", str(initial), "--model.flavor", "initial", "--model.family", kind.family)


def assert_same_logits(run: Path, exported: Path) -> None:
    """Ours and transformers', and the token each would choose at every position."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    theirs, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours = load_run(run).model
    ids = torch.randint(0, theirs.config.vocab_size, (1, 90), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(90).unsqueeze(0)
    with torch.no_grad():
        own, other = ours(ids, positions, ours.get_attention_masks(positions)), theirs(ids).logits
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(own.argmax(-1), other.argmax(-1))


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)
def test_a_model_trained_for_ten_steps_has_the_same_logits_and_greedy_codes_in_transformers(
    tmp_path: Path, kind: Backbone
) -> None:
    initial = extended(tmp_path, kind)
    figures = train_well(tmp_path / "run", *start_from(initial, kind), *TEN_STEPS)
    assert max(figures) == 10
    export(WeightsCheckpoint.open(tmp_path / "run"), tmp_path / "hf", torch.float32)
    before, after = (load_file(folder / "model.safetensors") for folder in (initial, tmp_path / "hf"))
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert_same_logits(tmp_path / "run", tmp_path / "hf")
    assert_same_greedy(tmp_path / "run", tmp_path / "hf")


@pytest.mark.parametrize("kind", [ALL_KINDS[0], ALL_KINDS[3]], ids=lambda kind: kind.name)
def test_a_extended_folder_gives_one_process_and_two_the_same_losses_and_comes_out_of_both_bit_for_bit(
    tmp_path: Path, kind: Backbone
) -> None:
    initial = extended(tmp_path, kind)
    words = (*start_from(initial, kind), *STANDING_STILL)
    found = {n: losses(train_well(tmp_path / f"run{n}", *words, world_size=n)) for n in (1, 2)}
    assert_close(found[2], found[1])
    before = load_file(initial / "model.safetensors")
    for world_size in (1, 2):
        run, exported = tmp_path / f"run{world_size}", tmp_path / f"hf{world_size}"
        provenance = read_provenance(run / "checkpoint" / "step-10")
        assert provenance is not None
        assert provenance.world_size == world_size
        export(WeightsCheckpoint.open(run), exported, torch.float32)
        after = load_file(exported / "model.safetensors")
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]), (world_size, name)


@pytest.mark.parametrize("kind", [ALL_KINDS[0], ALL_KINDS[3]], ids=lambda kind: kind.name)
def test_a_backbone_as_it_was_published_is_loaded_saved_and_exported_bit_for_bit(
    tmp_path: Path, kind: Backbone
) -> None:
    """In the type it came in; by two processes, which extend it at load time as `model expand` does."""
    kind = replace(kind, dtype=torch.bfloat16)
    initial = extended(tmp_path, kind)
    words = (*start_from(tmp_path / "base", kind), *STANDING_STILL)
    train_well(tmp_path / "run", *words, world_size=2)
    export(WeightsCheckpoint.open(tmp_path / "run"), tmp_path / "hf", torch.bfloat16)
    assert (tmp_path / "run/initial/model.safetensors").read_bytes() == (initial / "model.safetensors").read_bytes()
    published, before, after = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "base", initial, tmp_path / "hf")
    )
    assert published.keys() == before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(tensor, after[name][: len(tensor)]) for name, tensor in published.items())


def test_a_run_starts_from_an_exported_folder_with_its_weights_as_they_are(tmp_path: Path) -> None:
    kind = Backbone()
    run = write_run(tmp_path / "first", extended(tmp_path, kind), kind.family)
    export(WeightsCheckpoint.open(run), tmp_path / "hf", torch.float32)
    train_well(tmp_path / "second", *start_from(tmp_path / "hf", kind), *STANDING_STILL)
    assert f"the weights of {tmp_path / 'hf'}" in (tmp_path / "second/log.txt").read_text()
    export(WeightsCheckpoint.open(tmp_path / "second"), tmp_path / "again", torch.float32)
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "hf", tmp_path / "again"))
    assert all(torch.equal(before[name], after[name]) for name in before)


FULL_SIZE = [
    Backbone("llama3", True, 1, num_rows=128_256, rope_factor=32.0),
    Backbone("llama3", False, 4, num_rows=128_256, rope_factor=8.0),
    Backbone("qwen3", True, 2, num_rows=151_936),
    Backbone("qwen3", False, 1, num_rows=151_936),
]


@pytest.mark.parametrize("kind", FULL_SIZE, ids=lambda kind: kind.name)
def test_logits_and_greedy_codes_agree_at_the_full_vocabulary(tmp_path: Path, kind: Backbone) -> None:
    initial = extended(tmp_path, kind)
    run = write_run(tmp_path / "run", initial, kind.family)
    export(WeightsCheckpoint.open(run), tmp_path / "hf", torch.float32)
    num_rows = {"llama3": 193_920, "qwen3": 217_600}[kind.family]
    assert load_file(tmp_path / "hf/model.safetensors")["model.embed_tokens.weight"].shape[0] == num_rows
    assert_same_logits(run, tmp_path / "hf")
    assert_same_greedy(run, tmp_path / "hf")
