"""Parallel layouts on two processes against one process, from one seed checkpoint, in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import assert_close, losses, train_well

THREE_STEPS = ("--training.target_tokens", "3072")
LAYOUTS = {
    "fsdp": ("--parallelism.data_parallel_shard_degree", "2"),
    "tp": ("--parallelism.tensor_parallel_degree", "2"),
    "fsdp-with-fillers": ("--training.local_batch_packs", "3"),
}
SLOW_LAYOUTS = {
    "ddp": ("--parallelism.data_parallel_replicate_degree", "2", "--parallelism.data_parallel_shard_degree", "1"),
    "cp": ("--parallelism.context_parallel_degree", "2"),
    "selective-recomputation": ("--activation_checkpoint.kind", "selective"),
    "full-recomputation": ("--activation_checkpoint.kind", "full"),
    "whole-logits": ("--loss.num_chunks", "1"),
    "loader-processes": ("--data.num_workers", "2"),
}


def seed_checkpoint(folder: Path, *family: str) -> tuple[str, ...]:
    """Overrides that start a run from one seed: layouts draw different weights from the same seed."""
    train_well(folder, "--checkpoint.create_seed_checkpoint", "true", *family)
    return ("--checkpoint.initial_load_path", str(folder / "checkpoint" / "step-0"), *family)


@pytest.fixture(scope="module", params=["llama3", "qwen3"])
def one_process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """How to start from the seed, and the losses of one process."""
    if request.param == "qwen3" and request.config.getoption("-m") == "not slow":
        pytest.skip("the other family belongs to the slow suite")
    folder = tmp_path_factory.mktemp(request.param)
    start = seed_checkpoint(folder / "seed", "--model.family", request.param)
    return start, losses(train_well(folder / "one", *start, *THREE_STEPS))


def check(one_process: tuple, folder: Path, layout: tuple[str, ...]) -> None:
    start, expected = one_process
    found = losses(train_well(folder, *start, *THREE_STEPS, *layout, world_size=2))
    assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_two_processes_give_the_losses_of_one(one_process: tuple, tmp_path: Path, layout: tuple[str, ...]) -> None:
    check(one_process, tmp_path, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", (LAYOUTS | SLOW_LAYOUTS).values(), ids=LAYOUTS | SLOW_LAYOUTS)
def test_all_layouts_of_both_families_give_the_losses_of_one_process(
    one_process: tuple, tmp_path: Path, layout: tuple[str, ...]
) -> None:
    check(one_process, tmp_path, layout)
