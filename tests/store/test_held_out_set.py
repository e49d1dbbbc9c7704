"""Gold packs: what is set aside is stratified, whole and never read by training."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.plan_samples import LANGUAGES, World, make_world
from tests.support.store_samples import CODEC
from titan_speech.cli.main import main
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.held_out_set import (
    HELD_OUT_NAME,
    DecodePrompt,
    HeldOutIds,
    HeldOutSet,
    SourceStore,
    read_held_out_set,
)
from titan_speech.store.merge import merge_stores
from titan_speech.store.reader import open_store
from titan_speech.store.sample import SampleInfo
from titan_speech.store.verify import verify_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

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
    gold = HeldOutSet(
        seed=0,
        by="sample",
        max_tokens=2048,
        stores=(SourceStore("elsewhere", "0" * 16),),
        ce=tuple(ids),
        decode=(DecodePrompt(ids[0], "tts", "en"),),
        held_out=HeldOutIds(tuple(ids)),
        numbers={},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HELD_OUT_NAME).write_text(replace(gold, **changes).sealed().to_json())
    return folder


def sample_ids_read(plan: DataPlan, num_epochs: float = 2) -> dict[str, set[str]]:
    """Every sample of every pack of these epochs, as target, prompt or reference, by stream."""
    read: dict[str, set[str]] = {}
    for stream in plan.streams:
        ids = [documents.part.column("sample_id").to_pylist() for documents in stream.documents]
        found = read.setdefault(stream.name, set())
        for j in range(ceil(num_epochs * stream.stream.counts.num_packs)):
            for part, number, _, _ in stream.stream.pieces(j):
                found.update(ids[part][i] for i in stream.documents[part].samples(number))
    return read


# Training never reads them


def test_no_slot_of_an_epoch_of_any_task_holds_a_gold_sample(world: World, tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold", some_of_every_part(world))
    held = set(read_held_out_set(gold).held_out.all)
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
    held = set(read_held_out_set(gold).held_out.all)
    plan = DataPlan.load(all_tasks(world, held_out=(str(gold),)))
    first_code = plan.vocabulary.first_code_id
    needles = [
        (part.codes(n).astype(np.int32) + first_code).tobytes()
        for part in open_store(world.store).parts
        if part.kind == "speech"
        for n, id_ in enumerate(part.column("sample_id").to_pylist())
        if id_ in held and part.code_len_N[n] >= 4
    ]
    total = sum(ceil(stream.stream.counts.num_packs) for stream in plan.streams)
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
    with pytest.raises(DataError, match=r"none of its 2 samples is in the stores of this run .*chosen from elsewhere"):
        DataPlan.load(all_tasks(world, held_out=(str(gold),)))


def test_a_missing_or_edited_pack_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gold.json is missing; make one with titan-speech store held-out"):
        DataPlan.load(all_tasks(world, held_out=(str(tmp_path),)))
    gold = write_gold(tmp_path / "gold", some_of_every_part(world))
    content = json.loads((gold / HELD_OUT_NAME).read_text())
    content["held_out"]["chosen"].pop()
    (gold / HELD_OUT_NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match="not what its fingerprint says"):
        DataPlan.load(all_tasks(world, held_out=(str(gold),)))


# Cutting one


@pytest.fixture(scope="module")
def cut(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cut") / "gold"
    words = ["store", "held-out", str(world.store), "--output", str(output), "--num-ce", "40", "--num-decode", "7"]
    assert main(words) == 0
    return output


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_pack_is_a_small_sound_store_with_every_source_and_language(world: World, cut: Path) -> None:
    gold, store = read_held_out_set(cut), open_store(cut)
    assert verify_store(cut).is_sound
    assert [part.name for part in store.parts] == [part.name for part in open_store(world.store).parts]
    ids = {id_: part for part in store.parts for id_ in part.column("sample_id").to_pylist()}
    assert set(ids) == set(gold.held_out.chosen)
    assert len(gold.ce) == len(set(gold.ce)) == 40
    assert {ids[id_].name for id_ in gold.ce} == {part.name for part in store.parts}


def test_prompts_are_of_several_languages_with_another_sample_of_the_speaker(cut: Path) -> None:
    gold, store = read_held_out_set(cut), open_store(cut)
    rows = {row.sample_id: row for part in store.parts for row in map(part.row, range(part.num_samples))}
    assert len(gold.decode) == 7
    assert {prompt.language for prompt in gold.decode} == set(LANGUAGES)
    for prompt in gold.decode:
        assert prompt.task == "clone"
        assert prompt.reference_id is not None
        assert prompt.reference_id != prompt.sample_id
        reference, target = rows[prompt.reference_id], rows[prompt.sample_id]
        assert (reference.speaker_id, reference.language) == (target.speaker_id, prompt.language)
        assert reference.transcript_native
        assert target.transcript_native
        assert prompt.sample_id not in gold.ce


def test_training_reads_all_but_the_pack_that_was_cut(world: World, cut: Path) -> None:
    plan = DataPlan.load(all_tasks(world, held_out=(str(cut),)))
    held = set(read_held_out_set(cut).held_out.all)
    read = set().union(*sample_ids_read(plan).values())
    everything = {id_ for part in open_store(world.store).parts for id_ in part.column("sample_id").to_pylist()}
    assert read == everything - held


def test_the_same_stores_give_the_same_pack_and_another_seed_another(world: World, cut: Path, tmp_path: Path) -> None:
    options = HeldOutOptions(num_ce=40, num_decode=7)
    make_held_out_set([world.store], tmp_path / "again", options)
    assert files_of(tmp_path / "again") == files_of(cut)
    other = make_held_out_set([world.store], tmp_path / "other", replace(options, seed=1))
    assert len(set(other.ce) & set(read_held_out_set(cut).ce)) < 20


def test_a_merged_store_holds_the_same_samples_out_by_their_ids(world: World, cut: Path, tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "more", tokenizer=TextTokenizer.load(world.tokenizer), **STORE) as writer:
        writer.add_speech(SampleInfo(sample_id="new", dataset_source="wild", language="en"), [1, 2, 3])
    merge_stores([world.store, tmp_path / "more"], tmp_path / "merged")
    merged = replace(world, store=tmp_path / "merged")
    plan = DataPlan.load(all_tasks(merged, held_out=(str(cut),)))
    held = set(read_held_out_set(cut).held_out.all)
    assert f"{len(held)} of {len(held)} samples in store {merged.store}" in plan.describe()
    read = set().union(*sample_ids_read(plan).values())
    assert not read & held
    assert "new" in read


STORE: dict[str, Any] = {"name": "s", "codec": CODEC, "normalization_version": "nfc-1", "licence": "CC0-1.0"}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, world: World) -> Path:
    """30 recordings of 5 segments; their codes again as raw speech of another source, a sentence said six times."""
    path = tmp_path_factory.mktemp("recordings") / "store"
    with StoreWriter(path, tokenizer=TextTokenizer.load(world.tokenizer), **STORE) as writer:
        for i in range(150):
            rng = np.random.default_rng(i)
            tape: dict[str, Any] = {
                "source_video_id": f"tape-{i // 5}",
                "speaker_id": f"speaker-{i // 10}",
                "language": "en",
                "segment_order": i % 5,
                "start_time": 2.0 * (i % 5),
                "end_time": 2.0 * (i % 5) + 2,
            }
            info = SampleInfo(sample_id=f"read-{i}", dataset_source="read", **tape)
            text = "say it again" if i % 25 == 0 else f"sentence {i}"
            codes = rng.integers(0, 65_536, 20)
            writer.add_speech(info, codes, {"native": text})
            copy = SampleInfo(sample_id=f"copy-{i}", dataset_source="crawl", language="en")
            writer.add_speech(copy, codes if i % 2 else codes[::-1])
            if i % 3 == 0:
                raw = SampleInfo(sample_id=f"raw-{i}", dataset_source="raw", **tape)
                writer.add_speech(raw, rng.integers(0, 65_536, 20))
    return path


def test_whole_recordings_are_held_out_in_every_source_and_copies_too(recordings: Path, tmp_path: Path) -> None:
    gold = make_held_out_set([recordings], tmp_path / "gold", HeldOutOptions(num_ce=6, num_decode=2))
    chosen, held = set(gold.held_out.chosen), set(gold.held_out.all)
    rows = {
        row.sample_id: row for part in open_store(recordings).parts for row in map(part.row, range(part.num_samples))
    }
    tapes = {rows[id_].source_video_id for id_ in chosen} - {None}
    texts = {rows[id_].transcript_hash for id_ in chosen} - {None}
    sums = {rows[id_].checksum for id_ in chosen}
    expected = {
        id_
        for id_, row in rows.items()
        if row.source_video_id in tapes or row.transcript_hash in texts or row.checksum in sums
    }
    assert held == expected
    assert {id_.split("-")[0] for id_ in gold.held_out.recording} == {"read", "raw"}
    assert gold.held_out.duplicate


def test_a_pack_of_stores_that_were_cleaned_differently_names_both_cleanings(
    recordings: Path, world: World, tmp_path: Path
) -> None:
    cleaned = {**STORE, "normalization_version": "nfc-1+clean-1"}
    with StoreWriter(tmp_path / "cleaned", tokenizer=TextTokenizer.load(world.tokenizer), **cleaned) as writer:
        for i in range(20):
            info = SampleInfo(sample_id=f"clean-{i}", dataset_source="clean", language="hi", speaker_id=f"{i // 4}")
            writer.add_speech(info, [i] * 20, {"native": f"sentence {i}"})
    make_held_out_set([recordings, tmp_path / "cleaned"], tmp_path / "gold", HeldOutOptions(num_ce=12, num_decode=2))
    assert open_store(tmp_path / "gold").manifest.normalization_version == "nfc-1 and nfc-1+clean-1"
    assert verify_store(tmp_path / "gold").is_sound


def test_neither_clones_nor_stitched_segments_bring_a_gold_sample_back(
    world: World, recordings: Path, tmp_path: Path
) -> None:
    """Held out sample by sample, so that its neighbours on the tape are still read."""
    gold = make_held_out_set([recordings], tmp_path / "gold", HeldOutOptions(num_ce=24, num_decode=8, by="sample"))
    here = replace(world, store=recordings)
    sources = (
        here.source("speech", 0.5, datasets=("read",), stitch_gap_sec=0.5),
        here.source("clone", 0.5, datasets=("read",)),
    )
    held, read = set(gold.held_out.all), []
    for held_out in ((), (str(tmp_path / "gold"),)):
        plan = DataPlan.load(here.config(*sources, held_out=held_out))
        stitched = plan.streams[0].documents[0]
        assert any(len(stitched.samples(i)) > 1 for i in np.flatnonzero(stitched.lengths(0, 150)).tolist())
        read.append(sample_ids_read(plan))
    for name in read[0]:
        assert len(read[0][name] & held) > 5
        assert not read[1][name] & held
        assert read[1][name]


def test_by_speaker_holds_out_what_they_say_in_the_source_and_by_sample_only_copies(
    recordings: Path, tmp_path: Path
) -> None:
    rows = {
        row.sample_id: row for part in open_store(recordings).parts for row in map(part.row, range(part.num_samples))
    }
    speaker_of = {id_: (row.dataset_source, row.speaker_id) for id_, row in rows.items() if row.speaker_id}
    gold = make_held_out_set([recordings], tmp_path / "speaker", HeldOutOptions(4, 1, by="speaker_id"))
    speakers = {speaker_of[id_] for id_ in gold.held_out.chosen if id_ in speaker_of}
    assert {id_ for id_, speaker in speaker_of.items() if speaker in speakers} <= set(gold.held_out.all)
    assert gold.held_out.recording
    assert (
        make_held_out_set([recordings], tmp_path / "sample", HeldOutOptions(4, 1, by="sample")).held_out.recording == ()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (HeldOutOptions(num_ce=11), r"set --num-ce to 12 \(one sample of every source, language and kind\) up to 72"),
        (HeldOutOptions(num_ce=73), "up to 72"),
        (HeldOutOptions(num_ce=40), "set --num-decode to at most 18"),
        (
            HeldOutOptions(num_ce=40, num_decode=7, by="speaker_id"),
            r"more than half of prompts.en.speech .* --by sample",
        ),
        (HeldOutOptions(by="tape"), "expected one of source_video_id, speaker_id, sample"),
    ],
)
def test_a_pack_that_would_be_unfit_is_refused_and_nothing_is_left(
    world: World, tmp_path: Path, options: HeldOutOptions, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make_held_out_set([world.store], tmp_path / "gold", options)
    assert not list(tmp_path.iterdir())


def test_a_pack_is_never_overwritten(world: World, cut: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(cut)
    assert main(["store", "held-out", str(world.store), "--output", str(cut), "--num-ce", "40"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert files_of(cut) == before
