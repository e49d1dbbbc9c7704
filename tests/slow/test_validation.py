"""Validation losses of every layout against one process, and against a loop over documents in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.runs import train_well
from tests.training.test_validation import validations
from titan_speech.data.documents import Documents
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import open_validation_sets
from titan_speech.hf.export import WeightsCheckpoint, export
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.training.loss import GroupLoss

pytestmark = pytest.mark.slow
TOLERANCE = 1e-6

LAYOUTS = {
    "accumulation 4": (1, {"training.local_batch_packs": "1"}),
    "FSDP 2": (2, {}),
    "FSDP 4": (4, {"training.local_batch_packs": "1"}),
    "TP 2": (2, {"parallelism.tensor_parallel_degree": "2"}),
    "CP 2": (2, {"parallelism.context_parallel_degree": "2"}),
    "PP 2": (2, {"parallelism.pipeline_parallel_degree": "2"}),
}


@pytest.fixture(scope="module")
def trained(gold: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on one process, with its last validation."""
    folder = tmp_path_factory.mktemp("one")
    train_well(folder, *words(gold), "--training.target_tokens", "2048")
    return folder


def words(gold: Path) -> tuple[str, ...]:
    return ("--data.held_out", json.dumps([str(gold)]), "--model.flavor", "debug_untied")


def losses(record: dict) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, float) and not name.endswith("/sec")}


@pytest.mark.parametrize("name", LAYOUTS)
def test_validation_of_equal_weights_is_equal_in_every_layout(
    trained: Path, gold: Path, tmp_path: Path, name: str
) -> None:
    world_size, overrides = LAYOUTS[name]
    start = ("--checkpoint.initial_load_path", str(trained / "checkpoint" / "step-2"))
    some = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    train_well(tmp_path, *words(gold), *start, *some, "--training.target_tokens", "1024", world_size=world_size)
    found, expected = validations(tmp_path)[0], validations(trained)[2]
    assert losses(found) == pytest.approx(losses(expected), rel=TOLERANCE)
    assert {k: v for k, v in found.items() if "/tokens" in k} == {k: v for k, v in expected.items() if "/tokens" in k}


def test_validation_equals_a_loop_over_single_documents_in_transformers(trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    export(WeightsCheckpoint.open(trained), tmp_path / "hf", torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    config = load_config(["--job.config_file", str(trained / "config.toml")]).config
    plan = DataPlan.load(config)
    (validation,) = open_validation_sets(config, plan, TextTokenizer.load(config.tokenizer.path))
    sums: dict[str, list[float]] = {}
    for pack in validation.pack_plans:
        stream = plan.streams[pack.stream]
        for part, number, _, stop in pack.pieces:
            nll_T, is_code_T = document_losses(model, pack.documents[part], number, stop, plan)
            for name in ("loss", f"loss/language/{stream.language}", f"loss/task/{stream.task}"):
                add(sums, name, nll_T)
            add(sums, "loss/kind/code", nll_T[is_code_T])
    record = validations(trained)[2]
    for name, (loss_sum, num_tokens) in sums.items():
        group = GroupLoss(loss_sum, round(num_tokens))
        assert record["validation/gold/" + name.replace("loss", "tokens", 1)] == group.num_tokens, name
        assert record[f"validation/gold/{name}"] == pytest.approx(group.mean, rel=TOLERANCE), name


def add(sums: dict[str, list[float]], name: str, nll_T: torch.Tensor) -> None:
    total = sums.setdefault(name, [0.0, 0])
    total[0] += float(nll_T.double().sum())
    total[1] += len(nll_T)


@torch.no_grad()
def document_losses(
    model: torch.nn.Module, documents: Documents, number: int, stop: int, plan: DataPlan
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each token of a document but the first, alone in its sequence, and whether it is a code."""
    ids_T = torch.from_numpy(documents.document(number).ids_T.astype("int64"))[: stop + 1]
    targets_T = ids_T[1:]
    logits_TV = model(ids_T[None, :stop]).logits[0, : len(targets_T)]
    nll_T = torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none")
    return nll_T, torch.from_numpy(plan.vocabulary.is_code(targets_T.numpy()))
