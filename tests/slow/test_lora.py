"""LoRA in parallel layouts, with new vocabulary rows, and against a finetune of all weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.hf_folders import write_backbone
from tests.runs import assert_close, losses, train_well
from tests.slow.test_overfit import english_samples, write_config
from tests.warm import start_warm
from titan_speech.hf.model_folder import EMBEDDING, HFFolder

pytestmark = pytest.mark.slow

TWO_STEPS = ("--training.target_tokens", "2048", "--lora.rank", "4")
LAYOUTS = {
    "FSDP 2": (),
    "TP 2": ("--parallelism.tensor_parallel_degree", "2"),
    "CP 2": ("--parallelism.context_parallel_degree", "2"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "base"
    write_backbone(folder)
    return folder


def on(base: Path) -> tuple[str, ...]:
    return ("--model.initial", str(base), "--model.flavor", "initial", "--tokenizer.path", str(base))


@pytest.mark.parametrize("new_rows", ["false", "true"])
def test_every_layout_gives_the_losses_of_one_process(base: Path, tmp_path: Path, new_rows: str) -> None:
    words = (*TWO_STEPS, *on(base), "--lora.train_new_rows", new_rows)
    expected = losses(train_well(tmp_path / "one", *words, start=start_warm))
    for name, layout in LAYOUTS.items():
        found = train_well(tmp_path / name.replace(" ", ""), *words, *layout, world_size=2, start=start_warm)
        assert_close(losses(found), expected)


def test_new_rows_are_trained_and_the_rows_of_the_backbone_stay_the_same_bits(base: Path, tmp_path: Path) -> None:
    words = (*TWO_STEPS, *on(base), "--lora.train_new_rows", "true")
    train_well(tmp_path / "run", *words, world_size=2, start=start_warm)
    before = HFFolder.open(tmp_path / "run" / "initial").tensor(EMBEDDING)
    after = {"tok_embeddings.weight": torch.empty_like(before)}
    dcp.load(after, checkpoint_id=str(tmp_path / "run" / "checkpoint" / "step-2"), no_dist=True)
    [trained] = after.values()
    num_old = HFFolder.open(base).num_rows
    assert torch.equal(before[:num_old], trained[:num_old])
    assert (before[num_old:] != trained[num_old:]).any()


def test_eight_samples_are_overfitted_as_by_a_finetune_of_all_weights(tmp_path: Path) -> None:
    """Both from one base; the adapter's loss within 0.1 of the other's."""
    samples = english_samples(8, min_codes=30, max_codes=60)
    first = write_config(tmp_path, samples, steps=20, packs=4, seq_len=128, lr=4e-3)
    train_well(tmp_path / "base", config=str(first))
    shutil.rmtree(tmp_path / "store")
    config = str(write_config(tmp_path, samples, steps=200, packs=4, seq_len=128, lr=4e-3))
    start = ("--stage.from", str(tmp_path / "base"), "--stage.continue_data", "false")
    full = train_well(tmp_path / "full", *start, config=config)
    rows = ("--lora.rank", "16", "--lora.train_new_rows", "true")
    adapter = train_well(tmp_path / "adapter", *start, *rows, config=config)
    assert full[200]["loss"] < 0.1
    assert adapter[200]["loss"] < full[200]["loss"] + 0.1
