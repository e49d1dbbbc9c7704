"""Labels that are off by one, or documents whose end is no target, are found in the first batch; real batches pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.runs import ROOT
from titan_speech.data.batch_checks import check_labels, packs_by_stream
from titan_speech.data.pack_layout import IGNORE_INDEX, PADDING_PACK_PLAN
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.preflight.config_checks import load_config
from titan_speech.training.loss import StreamKey
from titan_speech.training.mixture_check import MixtureCheck, tokens_read

SLOTS = range(64)


@pytest.fixture(scope="module")
def plan() -> DataPlan:
    return DataPlan.load(load_config(["--job.config_file", str(ROOT / "train_configs" / "demo.toml")]).config)


@pytest.fixture(scope="module")
def batch(plan: DataPlan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    packed = plan.build_batch([*(plan.pack_plan(slot) for slot in SLOTS), PADDING_PACK_PLAN])
    return torch.from_numpy(packed.ids_BS), torch.from_numpy(packed.labels_BS), torch.from_numpy(packed.positions_BS)


def test_batches_of_all_tasks_pass(plan: DataPlan, batch: tuple[torch.Tensor, ...]) -> None:
    assert {stream.task for stream in plan.streams} == {"speech", "tts", "text"}
    ids_BL, labels_BL, positions_BL = batch
    check_labels(ids_BL, labels_BL, positions_BL, plan.grammar.closing_ids)


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_off_by_one_are_named(plan: DataPlan, batch: tuple[torch.Tensor, ...], shift: int) -> None:
    ids_BL, labels_BL, positions_BL = batch
    with pytest.raises(DataError, match="labels of the first batch are not the token that follows: pack 0, position"):
        check_labels(ids_BL, labels_BL.roll(shift, dims=1), positions_BL, plan.grammar.closing_ids)


def test_a_stop_token_that_is_never_a_target_is_named(plan: DataPlan, batch: tuple[torch.Tensor, ...]) -> None:
    ids_BL, labels_BL, positions_BL = batch
    stop = plan.grammar.vocabulary.special("<|speech_end|>")
    untrained_BL = torch.where((labels_BL & 0xFFFFFFFF) == stop, IGNORE_INDEX, labels_BL)
    with pytest.raises(DataError, match="the model would never stop"):
        check_labels(ids_BL, untrained_BL, positions_BL, plan.grammar.closing_ids)


def test_packs_counted_from_labels_are_those_of_the_plan(plan: DataPlan, batch: tuple[torch.Tensor, ...]) -> None:
    counted_S = packs_by_stream(batch[1], len(plan.streams))
    np.testing.assert_array_equal(counted_S, plan.order.num_packs(len(SLOTS)))
    steps = len(SLOTS) // len(plan.phase.slots(0))
    np.testing.assert_array_equal(plan.packs_of_steps(0, steps), counted_S)


def test_a_language_that_is_planned_and_not_read_is_told_once() -> None:
    streams = [StreamKey("tts", "hi", "tts"), StreamKey("tts", "en", "tts")]
    check = MixtureCheck(streams)
    assert check.compare(np.array([4, 4]), np.array([4, 4])) == []
    warnings = check.compare(np.array([6, 6]), np.array([0, 12]))
    assert [warning.partition(":")[0] for warning in warnings] == ["language hi", "language en"]
    assert "language hi: 4 packs were read, the data plan has 10" in warnings[0]
    assert check.compare(np.array([6, 6]), np.array([0, 12])) == [], "each is told once"
    assert tokens_read(np.array([0, 3]), streams, 512) == {
        "read_tokens/source/tts": 1536,
        "read_tokens/language/en": 1536,
    }
