"""Norms of tensors over shards: those of one process in every layout, and those of the weights that were saved."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import metrics_lines, train_well
from titan_speech.hf.export import WeightsCheckpoint, export

pytestmark = pytest.mark.slow

TOLERANCES = {"weight": 1e-6, "gradient": 1e-4, "update": 1e-4, "activation_rms": 1e-5}
"""Relative; the largest gap of TP 2 + FSDP 2, the one layout compared value by value, is 4e-6. The first updates of
AdamW are signs of gradients, so the rounding of the smallest ones shows."""

LAYOUTS = {
    "FSDP 2": (2, {}),
    "HSDP 2 x 2": (4, {"parallelism.data_parallel_replicate_degree": "2", "training.local_batch_packs": "1"}),
    "TP 2": (2, {"parallelism.tensor_parallel_degree": "2"}),
    "TP 2 FSDP 2": (4, {"parallelism.tensor_parallel_degree": "2"}),
    "CP 2": (2, {"parallelism.context_parallel_degree": "2"}),
    "PP 2": (2, {"parallelism.pipeline_parallel_degree": "2"}),
    "compiled": (1, {"compile.enable": "true"}),
    "recomputed": (1, {"activation_checkpoint.kind": "full"}),
}


SHORT = ("--training.target_tokens", "2048", "--model.flavor", "debug_untied")


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights to start from: a pipeline initializes others."""
    folder = tmp_path_factory.mktemp("seed")
    train_well(folder, *SHORT)
    return folder / "checkpoint" / "step-2"


def norms(folder: Path, seed: Path, *words: str, world_size: int = 1) -> dict[str, float]:
    """Of the second step of two."""
    start = ("--checkpoint.initial_load_path", str(seed), "--metrics.tensor_norms_at_steps", "[2]")
    train_well(folder, *SHORT, *start, *words, world_size=world_size)
    (found,) = (record for record in metrics_lines(folder) if record.get("event") == "tensor_norms")
    assert found["step"] == 2
    return {name: value for name, value in found.items() if name.startswith("tensors/")}


@pytest.fixture(scope="module")
def one(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("one")
    return folder, norms(folder, seed)


@pytest.mark.parametrize("name", LAYOUTS)
def test_norms_are_those_of_one_process(
    seed: Path, one: tuple[Path, dict[str, float]], tmp_path: Path, name: str
) -> None:
    world_size, overrides = LAYOUTS[name]
    words = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    found = norms(tmp_path, seed, *words, world_size=world_size)
    assert found.keys() == one[1].keys()
    for key, value in one[1].items():
        assert found[key] == pytest.approx(value, rel=TOLERANCES[key.split("/")[1]]), key


def test_weight_norms_are_those_of_the_weights_that_were_saved(
    one: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    folder, found = one
    export(WeightsCheckpoint.open(folder), tmp_path / "hf", torch.float32)
    saved = {k: v for file in (tmp_path / "hf").glob("*.safetensors") for k, v in load_file(file).items()}
    layers = [name for name in found if name.startswith("tensors/weight/layers/")]
    for name in layers:
        prefix = f"model.layers.{name.rpartition('/')[2]}."
        squares = [tensor.double().square().sum().item() for key, tensor in saved.items() if key.startswith(prefix)]
        assert found[name] == pytest.approx(math.sqrt(sum(squares)), rel=1e-6), name
    old, new = found["tensors/weight/head/old_rows"], found["tensors/weight/head/new_rows"]
    assert math.hypot(old, new) == pytest.approx(saved["lm_head.weight"].double().norm().item(), rel=1e-3)
