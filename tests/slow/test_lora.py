"""LoRA in parallel layouts, with new vocabulary rows, and against a finetune of all weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.slow.test_overfit import english_samples, write_config
from tests.support.hf_folders import write_backbone
from tests.support.runs import ROOT, assert_close, losses, metrics_lines, train_well
from tests.support.warm import start_warm
from titan_speech.checkpoint.index_reader import read_index
from titan_speech.hf.export import WeightsCheckpoint
from titan_speech.hf.merge import merge
from titan_speech.hf.model_folder import EMBEDDING, HFFolder
from titan_speech.model.lora import ADAPTER_A, ADAPTER_B
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set

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


def test_an_adapter_goes_on_in_a_pipeline_with_the_losses_and_weights_of_one_process(tmp_path: Path) -> None:
    """Stages initialize adapters of their own, so the first two steps are those of one process."""
    untied = ("--model.flavor", "debug_untied")
    train_well(tmp_path / "base", *untied, "--training.target_tokens", "1024", start=start_warm)
    words = (*untied, "--stage.from", str(tmp_path / "base"), "--lora.rank", "4", "--checkpoint.cadence", "[{every=2}]")
    straight = losses(train_well(tmp_path / "one", *words, "--training.target_tokens", "4096", start=start_warm))
    run = shutil.copytree(tmp_path / "one", tmp_path / "run")
    shutil.rmtree(run / "checkpoint" / "step-4")
    (run / "metrics.jsonl").unlink()
    pipeline = ("--training.target_tokens", "4096", "--parallelism.pipeline_parallel_degree", "2")
    resumed = losses(train_well(run, *words, *pipeline, world_size=2, start=start_warm))
    assert_close(resumed, {step: straight[step] for step in (3, 4)})
    found, expected = (adapter(folder / "checkpoint" / "step-4") for folder in (run, tmp_path / "one"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def adapter(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapter's checkpoint."""
    names = read_index(checkpoint / ".metadata").state_dict_metadata
    state = {name: torch.empty(names[name].size) for name in names if name.endswith((ADAPTER_A, ADAPTER_B))}
    weights = {name: value for name, value in state.items() if not name.startswith("optimizer")}
    dcp.load(weights, checkpoint_id=str(checkpoint), no_dist=True)
    return weights


def test_validation_and_the_generation_check_see_the_adapter(tmp_path: Path) -> None:
    """What they find at the end is what they find of the merged model before its first step."""
    make_held_out_set([ROOT / "demo_data"], tmp_path / "gold", HeldOutOptions(num_ce=51, num_decode=8, by="sample"))
    small = ("--generation_check.num_prompts", "2", "--generation_check.max_codes", "8", "--optimizer.lr", "0.02")
    small += ("--generation_check.every_steps", "2", "--generation_check.temperature", "0")
    words = ("--data.held_out", json.dumps([str(tmp_path / "gold")]), "--training.target_tokens", "2048", *small)
    train_well(tmp_path / "base", "--training.target_tokens", "1024", start=start_warm)
    train_well(tmp_path / "run", *words, "--stage.from", str(tmp_path / "base"), "--lora.rank", "4", start=start_warm)
    merge(WeightsCheckpoint.open(tmp_path / "run"), tmp_path / "merged")
    train_well(tmp_path / "next", *words, "--stage.from", str(tmp_path / "merged"), start=start_warm)
    for event in ("validation", "generation"):
        before, last = (events(tmp_path / "run", event)[step] for step in (0, 2))
        first = events(tmp_path / "next", event)[0]
        names = [name for name, value in last.items() if isinstance(value, float) and not name.endswith("/sec")]
        assert {n: first[n] for n in names} == pytest.approx({n: last[n] for n in names}, rel=1e-4)
        if event == "validation":
            assert any(before[name] != last[name] for name in names), "the adapter changes nothing"


def events(run: Path, name: str) -> dict[int, dict]:
    return {record["step"]: record for record in metrics_lines(run) if record.get("event") == name}


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
    """Both from one base; the adapter's loss of codes within 0.01 of the other's.

    Rows of text are frozen, and so small in a base of 20 steps that no logit of theirs can be large: an adapter cannot
    learn text of which the model could not say anything.
    """
    samples = english_samples(8, min_codes=30, max_codes=60)
    first = write_config(tmp_path, samples, steps=20, packs=4, seq_len=128, lr=4e-3)
    train_well(tmp_path / "base", config=str(first))
    shutil.rmtree(tmp_path / "store")
    config = str(write_config(tmp_path, samples, steps=200, packs=4, seq_len=128, lr=4e-3))
    start = ("--stage.from", str(tmp_path / "base"), "--stage.continue_data", "false")
    start += ("--checkpoint.cadence", "[{every = 1000}]")
    full = train_well(tmp_path / "full", *start, config=config)
    rows = ("--lora.rank", "16", "--lora.train_new_rows", "true")
    adapter = train_well(tmp_path / "adapter", *start, *rows, config=config)
    assert full[200]["loss/kind/code"] < 0.01
    assert adapter[200]["loss/kind/code"] < full[200]["loss/kind/code"] + 0.01
