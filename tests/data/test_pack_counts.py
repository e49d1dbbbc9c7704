"""Counts of packs: the same with and without what is kept of them, by one process and by several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.plan_samples import World, make_world, with_training
from titan_speech.data import pack_counts, paired_documents
from titan_speech.data.pack_counts import count_packs
from titan_speech.data.packing import Blocks, PackingRules
from titan_speech.data.plan import DataPlan
from titan_speech.store import derived_cache


def never() -> np.ndarray:
    raise AssertionError("made again")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), num_samples=40)


@pytest.fixture
def keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts are kept like large ones."""
    monkeypatch.setattr(derived_cache, "MIN_ITEMS", 1)


def all_tasks(world: World, **data) -> DataPlan:
    sources = [world.source(task, 0.25) for task in ("speech", "tts", "clone", "text")]
    config = world.config(*sources, **data)
    return DataPlan.load(with_training(config, seq_len=256, global_batch_tokens=12 * 256))


def test_plans_are_the_same_with_and_without_what_is_kept(world: World, keeps_all, monkeypatch) -> None:
    first = all_tasks(world)
    again = all_tasks(world)
    kept = list(world.store.with_name("store.derived").glob("*.array"))
    assert len(kept) > 12
    monkeypatch.setattr(pack_counts, "_count_all", never)
    monkeypatch.setattr(paired_documents.CloneDocuments, "_references", never)
    found = all_tasks(world)
    monkeypatch.undo()
    plain = all_tasks(world)
    for plan in (again, found, plain):
        assert plan.fingerprint == first.fingerprint
        assert [s.stream.block_counts for s in plan.streams] == [s.stream.block_counts for s in first.streams]
        for slot in range(0, 200, 7):
            assert plan.pack(slot).pieces == first.pack(slot).pieces
            assert np.array_equal(plan.pack(slot).labels_S, first.pack(slot).labels_S)


def test_counts_of_other_rules_or_tasks_are_others(world: World, keeps_all) -> None:
    stream = next(stream for stream in all_tasks(world).streams if stream.task == "tts")
    docs = stream.documents[0]
    assert isinstance(docs, paired_documents.TTSDocuments)
    keys = {docs.key, replace(docs, transcript="romanized").key, replace(docs, seq_len=64).key}
    assert len(keys) == 3
    blocks = Blocks(stream.documents)
    totals = [sum(c.num_packs for c in count_packs(blocks, PackingRules(seq_len), whole=True)) for seq_len in (64, 256)]
    assert totals[0] > totals[1]
    again = [sum(c.num_packs for c in count_packs(blocks, PackingRules(seq_len), whole=True)) for seq_len in (64, 256)]
    assert again == totals


def test_processes_count_what_one_would(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = next(stream for stream in all_tasks(world).streams if stream.task == "tts")
    blocks = Blocks(stream.documents, block_documents=4, min_partition_blocks=64)
    alone = pack_counts._count_all(blocks, PackingRules(128), True, "tts")
    monkeypatch.setattr(pack_counts, "MIN_PARALLEL_DOCUMENTS", 1)
    monkeypatch.setattr(pack_counts, "BLOCKS_PER_TASK", 3)
    assert np.array_equal(pack_counts._count_all(blocks, PackingRules(128), True, "tts"), alone)
