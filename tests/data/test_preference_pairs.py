"""Preference pairs: both answers in one pack, numbered in the labels; what is no pair is refused or counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.preference_samples import LIKED, write_pairs
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_training import PreferenceConfig, TrainingConfig
from titan_speech.data.batch_checks import check_labels, packs_by_stream
from titan_speech.data.loader import ANSWERS, SpeechDataLoader
from titan_speech.data.pack_layout import IGNORE_INDEX, answer_numbers, split_labels
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import open_validation_sets
from titan_speech.errors import DataError
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.tokenization.text_tokenizer import TextTokenizer

SEQ_LEN = 256


def config_of(store: Path, task: str = "preference", **data: object) -> SpeechConfig:
    source = SourceConfig(name="pairs", store=str(store), task=task, share=1.0, train_on="target")  # type: ignore[arg-type]
    return SpeechConfig(
        data=DataConfig(source=(source,), **data),  # type: ignore[arg-type]
        training=TrainingConfig(
            seq_len=SEQ_LEN, global_batch_tokens=4 * SEQ_LEN, target_tokens=64 * SEQ_LEN, local_batch_packs=2
        ),
        preference=PreferenceConfig(loss="dpo"),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "store", single=True)


@pytest.fixture(scope="module")
def plan(store: Path) -> DataPlan:
    return DataPlan.load(config_of(store))


def test_both_answers_of_a_pair_follow_each_other_in_one_pack(plan: DataPlan) -> None:
    seen = []
    for slot in range(8):
        pack = plan.pack(slot)
        ids = [ref.sample_ids[0] for ref in plan.sample_refs(pack)]
        assert len(ids) % 2 == 0
        for chosen, rejected in zip(ids[0::2], ids[1::2], strict=True):
            assert chosen.endswith("/chosen")
            assert rejected == chosen.replace("/chosen", "/rejected")
        seen += ids[0::2]
    assert len(set(seen)) == 24  # an epoch


def test_answers_are_separate_documents_whose_prompts_are_not_trained(plan: DataPlan) -> None:
    for slot in range(4):
        pack = plan.pack(slot)
        starts = [*np.flatnonzero(pack.positions_S == 0), SEQ_LEN]
        documents = plan.streams[pack.stream].documents
        for piece, first, end in zip(pack.pieces, starts, starts[1:], strict=False):
            alone = documents[piece.part].document(piece.document)
            np.testing.assert_array_equal(pack.ids_S[first:end], alone.ids_T)
            trained = pack.labels_S[first : end - 1] != IGNORE_INDEX
            np.testing.assert_array_equal(trained, alone.trained_T[1:])
            assert pack.labels_S[end - 1] == IGNORE_INDEX


def test_labels_carry_the_number_of_their_answer_and_the_batch_its_sample(plan: DataPlan) -> None:
    loader = SpeechDataLoader.Config(plan=plan, packs_per_step=4).build(dp_world_size=1, dp_rank=0, local_batch_size=2)
    inputs, labels_BL = next(iter(loader))
    loader.close()
    check_labels(inputs["input"], labels_BL, inputs["positions"], plan.grammar.closing_ids)
    assert packs_by_stream(labels_BL, len(plan.streams)).sum() == 2
    ids_BL, stream_BL = split_labels(labels_BL)
    number_BL = answer_numbers(labels_BL)
    first_code = plan.vocabulary.first_code_id
    for pack in range(2):
        numbers = number_BL[pack].unique().tolist()
        assert numbers == list(range(int(number_BL[pack].max()) + 1))
        for number in numbers[1:]:
            of_answer = number_BL[pack] == number
            stream, part, sample = inputs[ANSWERS][pack, number].tolist()
            assert set(stream_BL[pack, of_answer].tolist()) == {stream}
            row = plan.streams[stream].documents[part].part.row(sample)
            assert row.sample_id.endswith("/chosen" if number % 2 else "/rejected")
            codes = ids_BL[pack, of_answer][:-1] - first_code
            assert len(codes) == row.code_len
            assert bool((codes < LIKED[1]).all()) == bool(number % 2)
        assert (inputs[ANSWERS][pack, len(numbers) :] == -1).all()


def test_worker_processes_hand_over_the_same_answers(plan: DataPlan) -> None:
    def first_batches(num_workers: int) -> list[torch.Tensor]:
        config = SpeechDataLoader.Config(plan=plan, packs_per_step=4, num_workers=num_workers)
        loader = config.build(dp_world_size=1, dp_rank=0, local_batch_size=2)
        batches = iter(loader)
        taken = [next(batches) for _ in range(3)]
        loader.close()
        return [tensor for inputs, labels in taken for tensor in (inputs[ANSWERS], labels)]

    assert all(map(torch.equal, first_batches(0), first_batches(1)))


def test_an_answer_without_its_other_is_left_out_and_counted(plan: DataPlan) -> None:
    assert sum(stream.counts.num_documents for stream in plan.streams) == 24
    assert any("without the other answer" in line and "1 " in line for line in plan.left_out()), plan.left_out()


def test_equal_answers_and_answers_to_two_prompts_are_refused_by_name(tmp_path: Path) -> None:
    store = write_pairs(tmp_path / "store", equal=True, other_prompt=True)
    with pytest.raises(DataError) as caught:
        DataPlan.load(config_of(store))
    assert "1 pairs have equal answers, such as same/chosen" in str(caught.value)
    assert "1 pairs answer different prompts, such as two/chosen" in str(caught.value)


def test_a_pair_that_does_not_fit_is_dropped_as_a_whole(tmp_path: Path) -> None:
    store = write_pairs(tmp_path / "store", num_pairs=60, max_codes=140)
    plan = DataPlan.load(config_of(store))
    assert 0 < sum(stream.counts.num_dropped for stream in plan.streams) < 60
    assert any("longer than 256 tokens" in line for line in plan.left_out())
    with pytest.raises(DataError, match="longer than seq_len"):
        DataPlan.load(config_of(store, too_long="error"))


def test_the_same_store_is_read_as_tts_with_unchanged_labels(store: Path) -> None:
    config = config_of(store, task="tts")
    pack = DataPlan.load(replace(config, preference=PreferenceConfig())).pack(0)
    assert pack.labels_S.max() < 1 << 48


def test_a_held_out_set_of_pairs_has_both_answers_and_training_has_neither(store: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold"
    held_out = make_held_out_set([store], gold, HeldOutOptions(num_ce=4, num_decode=0))
    prompts = {sample_id.rpartition("/")[0] for sample_id in held_out.ce}
    assert len(held_out.ce) == 2 * len(prompts) == 8 - 2 * ("alone" in prompts)
    config = config_of(store, held_out=(str(gold),))
    plan = DataPlan.load(config)
    assert sum(stream.counts.num_documents for stream in plan.streams) == 24 - len(prompts - {"alone"})
    [found] = open_validation_sets(config, plan, TextTokenizer.load(config.tokenizer.path))
    assert found.num_documents == len(prompts - {"alone"})
    batch = plan.build_batch(found.pack_plans)
    assert batch.answers_BA3 is not None
    assert int((batch.answers_BA3[:, :, 0] >= 0).sum()) == 2 * found.num_documents
