"""A LoRA run trains its adapter alone, resumes on the base it began with, and on no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.support.hf_folders import write_backbone
from tests.support.runs import figures, losses, train, train_well
from tests.support.warm import start_warm
from titan_speech.checkpoint.commit import read_commit
from titan_speech.checkpoint.index_reader import read_index
from titan_speech.checkpoint.provenance import read_provenance

STABLE = ("--lr_scheduler.warmup_ratio", "0", "--lr_scheduler.decay", "constant")
FOUR_STEPS = (*STABLE, "--training.target_tokens", "4096", "--checkpoint.cadence", "[{every = 2}]", "--lora.rank", "4")


def on(base: Path, *more: str) -> tuple[str, ...]:
    return ("--model.initial", str(base), "--model.flavor", "initial", "--tokenizer.path", str(base), *more)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    write_backbone(folder / "base")
    train_well(folder / "run", *FOUR_STEPS, *on(folder / "base"), start=start_warm)
    return folder / "run"


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, the optimizer's among them."""
    checkpoint = run / "checkpoint" / f"step-{step}"
    names = read_index(checkpoint / ".metadata").state_dict_metadata
    state = {name: torch.empty(entry.size) for name, entry in names.items() if hasattr(entry, "size")}
    dcp.load(state, checkpoint_id=str(checkpoint), no_dist=True)
    return state


def test_a_checkpoint_holds_the_adapter_and_its_optimizer_state_alone(straight: Path) -> None:
    """TorchTitan 0.3 makes frozen parameters trainable when it distributes them: all weights had moments then."""
    names = read_index(straight / "checkpoint" / "step-4" / ".metadata").state_dict_metadata
    matrices = [name for name in names if not name.startswith(("optimizer", "lr_", "train_", "dataloader"))]
    assert matrices
    assert all(".lora_" in name for name in matrices)
    moments = [name for name in names if name.endswith("exp_avg")]
    assert len(moments) == len(matrices)
    assert all(".lora_" in name for name in moments)
    commit, found = read_commit(straight / "checkpoint" / "step-4"), read_provenance(straight / "checkpoint" / "step-4")
    assert commit is not None
    assert found is not None
    assert sum(file.num_bytes for file in commit.files if file.role == "model") < 100_000
    assert found.lora.startswith("rank 4, alpha 32, targets w1 w2 w3 wo wqkv")
    assert found.base == str(straight / "initial")


def test_a_run_that_was_stopped_ends_with_the_weights_of_a_straight_one(straight: Path, tmp_path: Path) -> None:
    """The base is loaded again, so a base that had moved in two steps would show in the losses."""
    run = shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(run / "checkpoint" / "step-4")
    (run / "metrics.jsonl").unlink()
    resumed = losses(train_well(run, *FOUR_STEPS, *on(straight.parent / "base"), start=start_warm))
    expected = losses(figures(straight))
    assert resumed == {step: expected[step] for step in (3, 4)}
    found, wanted = weights(run, 4), weights(straight, 4)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_an_adapter_branches_from_its_run_on_the_same_base(straight: Path, tmp_path: Path) -> None:
    """The third step is that of the straight run, and the fourth that of another rate."""
    branch = ("--stage.branch", "--stage.from", str(straight / "checkpoint" / "step-2"))
    decay = ("--lr_scheduler.decay", "linear", "--lr_scheduler.decay_ratio", "0.5", "--lr_scheduler.end_lr", "1e-5")
    words = (*FOUR_STEPS, *on(straight.parent / "base"), *branch, *decay)
    found, expected = losses(train_well(tmp_path / "run", *words, start=start_warm)), losses(figures(straight))
    assert sorted(found) == [3, 4]
    assert {**found[3], "lr": 0} == {**expected[3], "lr": 0}  # the rate is logged as that of the next step
    assert found[4] != expected[4]
    record = read_provenance(tmp_path / "run" / "checkpoint" / "step-4")
    assert record is not None
    assert (record.base, record.stage_from) == (str(straight / "initial"), branch[2])


@pytest.mark.slow
def test_a_run_does_not_resume_on_another_base_or_with_another_rank(straight: Path, tmp_path: Path) -> None:
    run = shutil.copytree(straight, tmp_path / "run")
    rank = train(run, *FOUR_STEPS[:-1], "8", *on(straight.parent / "base"), start=start_warm)
    assert "lora: the checkpoint has rank 4" in rank.output
    recorded = straight / "initial"
    recorded.rename(straight / "away")
    other = train(run, *FOUR_STEPS, *on(straight.parent / "base"), start=start_warm)
    assert other.returncode == 0, "the base that moved along with its run is found"
    weights_file = run / "initial" / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-1] + b"\1")
    other = train(run, *FOUR_STEPS, *on(straight.parent / "base"), start=start_warm)
    assert other.returncode != 0
    assert "belongs to the base with fingerprint" in other.output
    assert "another one" in other.output
    assert "Traceback" not in other.output
    (straight / "away").rename(recorded)
