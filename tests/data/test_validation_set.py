"""Validation sets: each scored sample once per stream that reads it, whole; sets that do not suit are refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.plan_samples import SEQ_LEN, World, make_world, with_training
from tests.support.store_samples import CODEC
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_training import ValidationConfig
from titan_speech.data.pack_layout import IGNORE_INDEX, build_batch, split_labels
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import ValidationSet, open_validation_sets
from titan_speech.errors import ConfigError, DataError
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.held_out_set import read_held_out_set
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"))
    make_held_out_set([str(made.store)], made.store.parent / "gold", HeldOutOptions(num_ce=48, num_decode=6), None)
    return made


def opened(config: SpeechConfig) -> tuple[DataPlan, tuple[ValidationSet, ...]]:
    plan = DataPlan.load(config)
    return plan, open_validation_sets(config, plan, TextTokenizer.load(config.tokenizer.path))


def all_tasks(world: World, held_out: tuple[str, ...] | None = None) -> SpeechConfig:
    return world.config(
        world.source("speech", 0.3, datasets=("wild",)),
        world.source("tts", 0.3, datasets=("prompts",)),
        world.source("clone", 0.2, datasets=("prompts",)),
        world.source("text", 0.2, datasets=("wiki",)),
        held_out=(str(world.store.parent / "gold"),) if held_out is None else held_out,
    )


def test_every_scored_sample_is_read_once_by_each_stream_of_its_task_and_language(world: World) -> None:
    plan, (validation,) = opened(all_tasks(world))
    scored = set(read_held_out_set(world.store.parent / "gold").ce)
    read: dict[tuple[str, str], Counter[str]] = {}
    for pack in validation.pack_plans:
        stream = plan.streams[pack.stream]
        for part, number, start, _ in pack.pieces:
            assert start == 0
            row = pack.documents[part].part.row(pack.documents[part].samples(number)[-1])
            assert row.language == stream.language
            read.setdefault((stream.task, stream.language), Counter())[row.sample_id] += 1
    for counts in read.values():
        assert set(counts) <= scored
        assert set(counts.values()) == {1}
    gold = open_store(world.store.parent / "gold")
    for task, dataset in (("speech", "wild"), ("tts", "prompts"), ("text", "wiki")):
        for language in ("en", "hi", "ta"):
            (part,) = (p for p in gold.parts if p.dataset_source == dataset and p.language == language)
            wanted = scored & set(part.column("sample_id").to_pylist())
            assert wanted, "the set has samples of every part"
            assert set(read[task, language]) == wanted
    assert validation.num_documents == sum(sum(counts.values()) for counts in read.values())


def test_labels_of_a_pack_are_the_next_token_and_name_the_stream_of_the_plan(world: World) -> None:
    plan, (validation,) = opened(all_tasks(world))
    packs = validation.pack_plans
    batch = build_batch(packs, SEQ_LEN, plan.vocabulary.pad_id)
    ids, streams = split_labels(batch.labels_BS)
    trained = ids != IGNORE_INDEX
    for row, pack in enumerate(packs):
        assert set(streams[row][trained[row]].tolist()) == {pack.stream}
        inside = trained[row][:-1] & (batch.positions_BS[row][1:] > 0)
        assert np.array_equal(ids[row][:-1][inside], batch.ids_BS[row][1:][inside])


def test_documents_above_the_sequence_length_are_cut_or_left_out_and_counted(world: World) -> None:
    settings = world.three_tasks(too_long="drop", held_out=(str(world.store.parent / "gold"),))
    _, (whole,) = opened(settings)
    _, (validation,) = opened(with_training(settings, seq_len=32, global_batch_tokens=12 * 32))
    assert whole.num_cut == whole.num_left_out == 0
    assert validation.num_cut > 0
    assert validation.num_left_out > 0
    assert f"{validation.num_cut:,} longer ones" in validation.describe()
    assert validation.num_documents + validation.num_left_out == whole.num_documents
    for pack in validation.pack_plans:
        assert sum(stop - start for _, _, start, stop in pack.pieces) <= 32


def test_none_without_an_interval_or_a_held_out_set(world: World) -> None:
    assert opened(all_tasks(world, held_out=()))[1] == ()
    assert opened(replace(all_tasks(world), validation=ValidationConfig(every_steps=0)))[1] == ()


def write_english(world: World, folder: Path, ids: str, seeds: Iterable[int], num_codes: int) -> Path:
    with StoreWriter(
        folder,
        name=folder.name,
        codec=CODEC,
        tokenizer=TextTokenizer.load(world.tokenizer),
        normalization_version="nfc-1",
        licence="CC0-1.0",
    ) as writer:
        for number, seed in enumerate(seeds):
            info = SampleInfo(sample_id=f"{ids}-{number}", dataset_source="wild", language="en")
            codes_F = np.random.default_rng([seed, 0]).integers(0, 65_536, num_codes, dtype=np.uint16)
            writer.add_speech(info, codes_F)
    return folder


@pytest.mark.parametrize(("first_seed", "num_codes"), [(0, 60), (1_000, 60), (0, 40)])
def test_a_set_whose_samples_are_in_another_store_under_other_ids_is_refused(
    world: World, tmp_path: Path, first_seed: int, num_codes: int
) -> None:
    """Other codes, and copies of less than a second, pass."""
    first = write_english(world, tmp_path / "first", "first", range(400), num_codes)
    again = write_english(world, tmp_path / "again", "again", range(first_seed, first_seed + 400), num_codes)
    make_held_out_set([str(first)], tmp_path / "english", HeldOutOptions(num_ce=4, num_decode=1), None)
    sources = [world.source("speech", 0.5, name=store.name, store=str(store)) for store in (first, again)]
    config = world.config(*sources, held_out=(str(tmp_path / "english"),))
    if (first_seed, num_codes) != (0, 60):
        opened(config)
        return
    with pytest.raises(DataError, match=r"overlaps the training data: sample again-\d+ of .* is a copy of its sample"):
        opened(config)
    make_held_out_set([str(first), str(again)], tmp_path / "of-both", HeldOutOptions(num_ce=4, num_decode=1), None)
    opened(world.config(*sources, held_out=(str(tmp_path / "of-both"),)))


def test_a_language_of_the_run_without_scored_samples_is_refused_unless_languages_are_named(
    world: World, tmp_path: Path
) -> None:
    write_english(world, tmp_path / "only-en", ids="wild-en", seeds=range(40), num_codes=20)
    make_held_out_set([str(tmp_path / "only-en")], tmp_path / "english", HeldOutOptions(num_ce=4, num_decode=1), None)
    config = world.config(world.source("speech", 1.0, datasets=("wild",)), held_out=(str(tmp_path / "english"),))
    with pytest.raises(ConfigError, match=r"no scored sample of hi, ta .*validation\.languages"):
        opened(config)
    _, (validation,) = opened(replace(config, validation=ValidationConfig(languages=("en",))))
    assert validation.num_documents == 4


def test_a_set_of_another_codec_is_refused(world: World, tmp_path: Path) -> None:
    other = make_world(tmp_path, codec=replace(CODEC, hash="f" * 64))
    make_held_out_set([str(other.store)], tmp_path / "gold", HeldOutOptions(num_ce=12, num_decode=1), None)
    with pytest.raises(DataError, match="different codecs"):
        opened(all_tasks(world, held_out=(str(tmp_path / "gold"),)))


def test_two_sets_of_one_name_are_refused(world: World, tmp_path: Path) -> None:
    make_held_out_set([str(world.store)], tmp_path / "gold", HeldOutOptions(num_ce=24, num_decode=1, seed=3), None)
    with pytest.raises(ConfigError, match="one name"):
        opened(all_tasks(world, held_out=(str(world.store.parent / "gold"), str(tmp_path / "gold"))))
