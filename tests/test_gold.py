"""Gold packs: what is set aside is stratified, whole and never read by training."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from tests.plan_samples import World, make_world
from titan_speech.config.tables import SpeechConfig
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.store.gold_file import GOLD_NAME, DecodePrompt, Gold, HeldOutIds, SourceStore, read_gold
from titan_speech.store.store import open_store

TASKS = {
    "speech": ("wild", "prompts"),
    "continuation": ("wild",),
    "tts": ("prompts",),
    "clone": ("prompts",),
    "text": ("wiki",),
    "instruction": ("chat",),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def all_tasks(world: World, **data) -> SpeechConfig:
    sources = (world.source(task, 1 / len(TASKS), datasets=datasets) for task, datasets in TASKS.items())
    return world.config(*sources, **data)


def some_of_every_part(world: World, each: int = 7) -> list[str]:
    """The first samples of every part of the store."""
    return [id_ for part in open_store(world.store).parts for id_ in part.column("sample_id").to_pylist()[:each]]


def write_gold(folder: Path, ids: list[str], **changes) -> Path:
    """A gold.json that names samples but no numbers, as for a store it was not cut from."""
    gold = Gold(
        seed=0,
        by="sample",
        max_tokens=2048,
        stores=(SourceStore("elsewhere", "0" * 16),),
        ce=tuple(ids),
        decode=(DecodePrompt(ids[0], "en"),),
        held_out=HeldOutIds(tuple(ids)),
        numbers={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GOLD_NAME).write_text(replace(gold, **changes).sealed().to_json())
    return folder


def sample_ids_read(plan: DataPlan, num_epochs: float = 2) -> dict[str, set[str]]:
    """Every sample of every pack of these epochs, as target, prompt or reference, by stream."""
    read: dict[str, set[str]] = {}
    for stream in plan.streams:
        ids = [documents.part.column("sample_id").to_pylist() for documents in stream.documents]
        found = read.setdefault(stream.name, set())
        for j in range(ceil(num_epochs * stream.packs.counts.num_packs)):
            for part, number, _, _ in stream.packs.pieces(j):
                found.update(ids[part][i] for i in stream.documents[part].samples(number))
    return read


# Training never reads them


def test_no_slot_of_an_epoch_of_any_task_holds_a_gold_sample(world: World, tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold", some_of_every_part(world))
    held = set(read_gold(gold).held_out.all)
    open_plan = DataPlan.load(all_tasks(world))
    plan = DataPlan.load(all_tasks(world, held_out=(str(gold),)))
    everything, read = sample_ids_read(open_plan), sample_ids_read(plan)
    for name, ids in read.items():
        assert everything[name] & held, f"{name} would read none of them anyway"
        assert not ids & held, name
        assert everything[name] - held == ids, f"{name} lost more than was held out"


def test_the_tokens_of_gold_samples_are_in_no_pack(world: World, tmp_path: Path) -> None:
    """The same from the other end: packs are searched for the codes themselves."""
    gold = write_gold(tmp_path / "gold", some_of_every_part(world))
    held = set(read_gold(gold).held_out.all)
    plan = DataPlan.load(all_tasks(world, held_out=(str(gold),)))
    first_code = plan.vocabulary.first_code_id
    needles = [
        (part.codes(n).astype(np.int32) + first_code).tobytes()
        for part in open_store(world.store).parts
        if part.kind == "speech"
        for n, id_ in enumerate(part.column("sample_id").to_pylist())
        if id_ in held and part.code_len_N[n] >= 4
    ]
    total = sum(ceil(stream.packs.counts.num_packs) for stream in plan.streams)
    packs = b"".join(plan.pack(slot).ids_S.tobytes() for slot in range(2 * total))
    assert len(needles) > 30
    assert not [needle for needle in needles if needle in packs]


def test_to_ask_a_masked_part_for_a_held_out_sample_is_an_error(world: World, tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold", some_of_every_part(world))
    plan = DataPlan.load(all_tasks(world, held_out=(str(gold),)))
    for stream in pickle.loads(pickle.dumps(plan)).streams:
        part = stream.documents[0].part
        assert part.code_len_N[part.held_out].sum() == 0
        with pytest.raises(DataError, match="is held out from training"):
            part.codes(int(part.held_out[0])) if part.kind == "speech" else part.tokens(int(part.held_out[0]))


def test_the_plan_fingerprint_covers_the_held_out_samples(world: World, tmp_path: Path) -> None:
    ids = some_of_every_part(world)
    packs = [write_gold(tmp_path / name, some) for name, some in (("a", ids), ("b", ids[1:]), ("c", ids))]
    fingerprints = [DataPlan.load(all_tasks(world, held_out=(str(pack),))).fingerprint for pack in packs]
    assert fingerprints[0] != fingerprints[1]
    assert fingerprints[0] == fingerprints[2]  # wherever the pack lies
    assert DataPlan.load(all_tasks(world)).fingerprint not in fingerprints


def test_the_plan_says_how_many_were_found_in_each_store(world: World, tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold", [*some_of_every_part(world, each=1), "elsewhere"])
    plan = DataPlan.load(all_tasks(world, held_out=(str(gold),)))
    assert f"held out by {gold}: 12 of 13 samples in store {world.store}" in plan.describe()


def test_a_pack_of_other_stores_is_refused(world: World, tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold", ["elsewhere-1", "elsewhere-2"])
    with pytest.raises(DataError, match=r"none of its 2 samples is in the stores of this run .*cut from elsewhere"):
        DataPlan.load(all_tasks(world, held_out=(str(gold),)))


def test_a_missing_or_edited_pack_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gold.json is missing; make one with titan-speech store gold"):
        DataPlan.load(all_tasks(world, held_out=(str(tmp_path),)))
    gold = write_gold(tmp_path / "gold", some_of_every_part(world))
    content = json.loads((gold / GOLD_NAME).read_text())
    content["held_out"]["chosen"].pop()
    (gold / GOLD_NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match="not what its fingerprint says"):
        DataPlan.load(all_tasks(world, held_out=(str(gold),)))
