"""What is worked out from a store once: made by one process, found again by others, made anew when damaged or stale."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from tests.support.plan_samples import World, make_world, with_training
from titan_speech.data import pack_counts, paired_documents
from titan_speech.data.pack_counts import count_packs
from titan_speech.data.packing import Blocks, PackingRules
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.store import derived_cache
from titan_speech.store.derived_cache import derived_array, derived_folder, key_of

ARRAY = np.arange(1_000, dtype=np.int32)


def never() -> np.ndarray:
    raise AssertionError("made again")


@pytest.mark.parametrize("array", [ARRAY, ARRAY.reshape(-1, 4).astype(np.int64), ARRAY[:0]])
def test_an_array_is_made_once_and_found_again_as_it_was(tmp_path: Path, array: np.ndarray) -> None:
    made = derived_array(tmp_path / "d", "key", lambda: array)
    found = derived_array(tmp_path / "d", "key", never)
    for some in (made, found):
        assert some.dtype == array.dtype
        assert some.tolist() == array.tolist()
    assert derived_array(tmp_path / "d", "other", lambda: array[::2]).tolist() == array[::2].tolist()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    derived_array(tmp_path, "key", lambda: ARRAY)
    file = tmp_path / "key.array"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes({"flip": bytes(data), "cut": data[:-8], "empty": b""}[damage])
    assert derived_array(tmp_path, "key", lambda: ARRAY + 1).tolist() == (ARRAY + 1).tolist()
    assert derived_array(tmp_path, "key", never).tolist() == (ARRAY + 1).tolist()


def test_a_change_of_an_array_stays_in_its_process(tmp_path: Path) -> None:
    derived_array(tmp_path, "key", lambda: ARRAY)[0] = 77
    assert derived_array(tmp_path, "key", never)[0] == 0


def test_what_cannot_be_made_leaves_nothing_and_what_cannot_be_kept_is_made_each_time(tmp_path: Path) -> None:
    def fail() -> np.ndarray:
        raise DataError("no such column")

    with pytest.raises(DataError, match="no such column"):
        derived_array(tmp_path / "d", "key", fail)
    assert not list((tmp_path / "d").glob("*.array*"))
    (tmp_path / "file").write_text("in the way")
    assert derived_array(tmp_path / "file", "key", lambda: ARRAY) is ARRAY


def _num_made(folder: Path) -> int:
    num_made = 0

    def make() -> np.ndarray:
        nonlocal num_made
        num_made += 1
        return np.arange(300_000)

    assert derived_array(folder, "key", make).sum() == sum(range(300_000))
    return num_made


def test_of_several_processes_one_makes_it(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        assert sum(pool.map(_num_made, [tmp_path] * 12)) == 1


def test_arrays_lie_beside_a_store_or_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITAN_SPEECH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "store").mkdir()
    assert derived_folder(tmp_path / "store") == tmp_path / "store.derived"
    assert derived_folder("s3://bucket/store") == tmp_path / "cache/derived/store"
    assert key_of(1, "a") != key_of(1, "b")


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
