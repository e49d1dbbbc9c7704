"""Stages as they are run: S1 to SFT on the bundled data, each cut in the middle; options of a stage on layouts."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.slow.tour import STAGES, StageRun, cut_and_resumed, read_stages, table
from tests.support import runs
from tests.support.runs import ROOT, assert_close, losses
from tests.support.warm import start_warm
from titan_speech.config.budget import Budget
from titan_speech.data.phase_files import phase_end
from titan_speech.preflight.config_checks import load_config

NUM_ROWS = 69_760  # of tokenizer/tiny with codes and specials
LEAST_FALL = 1.0
"""Of S1's loss, from its first step to the mean of its last four. By 0.06 a step it falls by 1.26 in 24 steps, where a
batch differs from the next by 0.2, and the mean of four by 0.1. More is not to be had: it reads 98 thousand tokens, of
65,536 codes each is seen once or not at all."""
FOUR_STEPS = ("--training.target_tokens", "4096", "--checkpoint.cadence.0.every", "2")
SIX_STEPS = ("--training.target_tokens", "6144", "--checkpoint.cadence.0.every", "2")
train, train_well = partial(runs.train, start=start_warm), partial(runs.train_well, start=start_warm)
ROWS = ("--optimizer.new_rows_lr_factor", "0.5", "--optimizer.frozen_backbone_ratio", "0.5")


def schedule(config: str, *overrides: str) -> Budget:
    return Budget.from_config(load_config(["--job.config_file", config, *overrides]).config)


def assert_rates_follow(plan: Budget, logged: dict[int, dict]) -> None:
    """Logged steps count from 1."""
    for step, record in logged.items():
        assert record["lr"] == pytest.approx(plan.learning_rate(step - 1), rel=1e-9), step


def parameter(checkpoint: Path, name: str) -> torch.Tensor:
    """One whole parameter of a checkpoint."""
    reader = dcp.FileSystemReader(checkpoint)
    saved = reader.read_metadata().state_dict_metadata[name]
    state = {name: torch.empty(saved.size)}  # type: ignore[union-attr]
    dcp.load(state, storage_reader=reader, no_dist=True)
    return state[name]


@pytest.mark.slow
def test_the_tour_from_s1_to_sft_with_each_stage_cut_and_resumed_at_another_size(tmp_path: Path) -> None:
    check_tour([cut_and_resumed(tmp_path, stage) for stage in STAGES])


def check_tour(stages: list[StageRun]) -> None:
    s1, s2, s3, _ = stages
    assert s1.first_loss == pytest.approx(math.log(NUM_ROWS), abs=0.1)  # no row is likelier than another
    assert s1.last_loss < s1.first_loss - LEAST_FALL
    assert s2.first_loss < (s1.first_loss + s1.last_loss) / 2  # it goes on where S1 ended, and does not begin anew
    assert s2.carried == ("speech", "text", "tts")
    assert s3.carried == ("speech",)  # of twice the length; the others are left out


def test_the_recorded_tour_is_one_that_passes_and_the_page_has_its_losses() -> None:
    stages = read_stages()
    check_tour(stages)
    assert table(stages) in (ROOT / "docs" / "quick_start.md").read_text("utf-8")


@pytest.mark.slow
def test_a_stage_with_the_optimizer_of_the_one_before_has_its_own_rate_and_is_extended_by_more_tokens(
    tmp_path: Path,
) -> None:
    train_well(tmp_path / "s1", *FOUR_STEPS, "--lr_scheduler.decay", "constant")
    handed = ("--stage.from", str(tmp_path / "s1"), "--stage.optimizer", "--optimizer.lr", "1e-4")
    handed += ("--lr_scheduler.end_lr", "5e-5", "--lr_scheduler.warmup_ratio", "0")
    logged = train_well(tmp_path / "s2", *handed, *FOUR_STEPS)
    assert_rates_follow(schedule("tests/assets/small.toml", *handed, *FOUR_STEPS), logged)
    assert "the weights and the optimizer of the previous stage" in (tmp_path / "s2" / "log.txt").read_text()
    norms = [parameter(tmp_path / f"{name}/checkpoint/step-4", "norm.weight") for name in ("s1", "s2")]
    assert 0 < (norms[1] - norms[0]).abs().max() < 1e-3  # one step at the rate of S1 would move some by 2e-3
    longer = train_well(tmp_path / "s2", *handed, *SIX_STEPS)
    plan = schedule("tests/assets/small.toml", *handed, *SIX_STEPS)
    assert sorted(longer) == [1, 2, 3, 4, 5, 6]
    assert_rates_follow(plan, {step: longer[step] for step in (5, 6)})
    text = (tmp_path / "s2" / "log.txt").read_text()
    assert "4 steps -> 6" in text
    assert f"step 5 has the rate {plan.learning_rate(4):.3g}" in text
    finished = train(tmp_path / "s3", "--stage.from", str(tmp_path / "s2"), "--stage.strict", *FOUR_STEPS)
    assert finished.returncode != 0
    assert "optimizer.lr = 0.002 is above 5e-05" in finished.output


STABLE = ("--lr_scheduler.warmup_ratio", "0", "--lr_scheduler.end_lr", "1e-4", "--checkpoint.cadence.0.every", "2")
LINEAR = (*STABLE, "--training.target_tokens", "4096", "--lr_scheduler.decay", "linear")
LINEAR += ("--lr_scheduler.decay_ratio", "0.5")
SQRT = (
    *STABLE,
    "--training.target_tokens",
    "6144",
    "--lr_scheduler.decay",
    "sqrt",
    "--lr_scheduler.decay_ratio",
    "0.34",
)
OTHER_MIX = ("--data.phase", "anneal", "--data.source.0.share", "0.1", "--data.source.1.share", "0.7")


@pytest.mark.slow
def test_two_anneals_of_one_stable_run_end_with_the_bits_of_straight_runs_of_their_schedules(tmp_path: Path) -> None:
    """One from step 2 on the same data, its straight run from the first step; one from step 4 on another mix, its
    straight run the stable one, resumed in its own folder with that schedule and mix."""
    stable = tmp_path / "stable"
    train_well(stable, *STABLE, "--training.target_tokens", "8192", "--lr_scheduler.decay", "constant")
    straight = train_well(tmp_path / "straight", *LINEAR)
    assert_rates_follow(schedule("tests/assets/small.toml", *LINEAR), straight)
    branch = ("--stage.branch", "--stage.from")
    first = train_well(tmp_path / "first", *LINEAR, *branch, str(stable / "checkpoint" / "step-2"))
    assert losses(first) == {step: values for step, values in losses(straight).items() if step > 2}
    assert_same_bits(tmp_path / "first" / "checkpoint" / "step-4", tmp_path / "straight" / "checkpoint" / "step-4")

    cut = shutil.copytree(stable, tmp_path / "cut")
    for step in (6, 8):
        shutil.rmtree(cut / "checkpoint" / f"step-{step}")
    (cut / "metrics.jsonl").unlink()
    resumed = train_well(cut, *SQRT, *OTHER_MIX)
    second = train_well(tmp_path / "second", *SQRT, *OTHER_MIX, *branch, str(stable / "checkpoint" / "step-4"))
    assert sorted(second) == [5, 6]
    assert losses(second) == losses(resumed)
    assert_same_bits(tmp_path / "second" / "checkpoint" / "step-6", cut / "checkpoint" / "step-6")
    before, anneal = phase_end(tmp_path / "second" / "checkpoint" / "step-6").phases  # type: ignore[union-attr]
    assert (before,) == phase_end(stable / "checkpoint" / "step-4").phases  # type: ignore[union-attr]
    assert (anneal.label, anneal.first_slot) == ("anneal", 4 * anneal.packs_per_step)

    (tmp_path / "second" / "metrics.jsonl").unlink()
    shutil.rmtree(tmp_path / "second" / "checkpoint" / "step-6")
    again = train_well(tmp_path / "second", *SQRT, *OTHER_MIX, *branch, str(stable / "checkpoint" / "step-4"))
    assert losses(again) == losses(second), "a branch without a checkpoint of its own begins again where it branched"


def assert_same_bits(one: Path, other: Path) -> None:
    """Weights and optimizer state of two checkpoints."""
    names = dcp.FileSystemReader(one).read_metadata().state_dict_metadata
    tensors = [name for name, saved in names.items() if hasattr(saved, "size")]
    assert any(name.endswith("exp_avg") for name in tensors)
    for name in tensors:
        assert torch.equal(parameter(one, name), parameter(other, name)), name


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(), ("--parallelism.tensor_parallel_degree", "2")], ids=["fsdp", "tp"])
def test_new_rows_and_a_frozen_backbone_are_the_same_on_two_processes(tmp_path: Path, layout: tuple[str, ...]) -> None:
    one = losses(train_well(tmp_path / "one", *SIX_STEPS, *ROWS))
    two = losses(train_well(tmp_path / "two", *SIX_STEPS, *ROWS, *layout, world_size=2))
    assert_close(two, one)


@pytest.mark.slow
def test_a_frozen_backbone_is_resumed_to_the_last_bit_and_has_not_moved(tmp_path: Path) -> None:
    whole = losses(train_well(tmp_path / "one", *SIX_STEPS, *ROWS))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for step in (4, 6):
        shutil.rmtree(tmp_path / f"two/checkpoint/step-{step}")
    resumed = losses(train_well(tmp_path / "two", *SIX_STEPS, *ROWS))
    assert resumed == whole
    assert "starts from      step 2 of" in (tmp_path / "two" / "log.txt").read_text()
    rows = [parameter(tmp_path / f"one/checkpoint/step-{step}", "tok_embeddings.weight") for step in (2, 6)]
    layers = [parameter(tmp_path / f"one/checkpoint/step-{step}", "layers.0.feed_forward.w2.weight") for step in (2, 6)]
    norms = parameter(tmp_path / "one/checkpoint/step-2", "layers.0.attention_norm.weight")
    assert torch.equal(norms, torch.ones_like(norms))  # frozen for three steps
    assert not torch.equal(*rows)
    assert not torch.equal(*layers)
