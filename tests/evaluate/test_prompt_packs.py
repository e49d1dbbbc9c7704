"""Packs are frozen, built the same from the same sources, and say what training has already seen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.codec.wav import write_wav
from titan_speech.errors import DataError
from titan_speech.evaluate.clip import Sound
from titan_speech.evaluate.prompt_packs.build import build_pack
from titan_speech.evaluate.prompt_packs.contamination import contamination
from titan_speech.evaluate.prompt_packs.drafts import Draft
from titan_speech.evaluate.prompt_packs.held_out import held_out_drafts
from titan_speech.evaluate.prompt_packs.prompt_pack import PACK_NAME, PromptPack, read_pack, read_sound
from titan_speech.evaluate.prompt_packs.public_sets import emergent, minimax, seed_tts
from titan_speech.evaluate.prompt_packs.text_files import text_drafts
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.held_out_set import read_held_out_set
from titan_speech.store.reader import open_store

WAV_T = (0.2 * np.sin(np.arange(16_000) / 20)).astype(np.float32)


def drafts(count: int = 12) -> list[Draft]:
    return [
        Draft(f"p{i}", ("en", "hi")[i % 2], f"text number {i}", ("", "numbers")[i % 4 // 2], Sound(WAV_T), "voice")
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out") / "gold"
    make_held_out_set([str(ROOT / "demo_data")], folder, HeldOutOptions(51, 12, 0, "sample", 2048))
    return folder


@pytest.fixture(scope="module")
def pack_folder(held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found, codec_hash = held_out_drafts(str(held_out), num_cross_lingual=4)
    folder = tmp_path_factory.mktemp("packs") / "demo"
    build_pack(found, folder, num_canaries=1, codec_hash=codec_hash, made_from="demo")
    return folder


def test_a_pack_is_read_back_with_its_sounds_and_the_same_drafts_give_the_same_hash(tmp_path: Path) -> None:
    made = build_pack(drafts(), tmp_path / "a", num_canaries=1)
    assert build_pack(drafts(), tmp_path / "b", num_canaries=1, licence="other").hash == made.hash
    found = read_pack(tmp_path / "a")
    assert found == made
    voice = found.prompts[0].voice
    assert voice is not None
    wav_T = read_sound(tmp_path / "a", voice).wav_T
    assert wav_T is not None
    np.testing.assert_allclose(wav_T, WAV_T, atol=1e-4)
    assert len(list((tmp_path / "a").rglob("*.wav"))) == 1, "one reference for all prompts is one file"
    changed = replace(found, prompts=(replace(found.prompts[0], text="another"), *found.prompts[1:]))
    assert changed.hash != found.hash


def test_canaries_are_of_every_language_and_subset_and_do_not_move_when_prompts_are_added(tmp_path: Path) -> None:
    few = build_pack(drafts(8), tmp_path / "few", num_canaries=1)
    more = build_pack([*drafts(8), Draft("q", "ta", "x", "")], tmp_path / "more", num_canaries=1)
    assert Counter((p.language, p.subset) for p in few.of_set("canary")).most_common(1)[0][1] == 1
    assert len(few.of_set("canary")) == 4
    assert {p.prompt_id for p in more.of_set("canary")} == {p.prompt_id for p in few.of_set("canary")} | {"q"}
    assert len(more.of_set("full")) == 9


def test_an_edited_pack_a_changed_sound_and_a_taken_folder_are_refused(tmp_path: Path) -> None:
    build_pack(drafts(), tmp_path / "p")
    with pytest.raises(DataError, match="frozen"):
        build_pack(drafts(), tmp_path / "p")
    text = (tmp_path / "p" / PACK_NAME).read_text()
    (tmp_path / "p" / PACK_NAME).write_text(text.replace("text number 3", "text number 4"))
    with pytest.raises(DataError, match="was edited"):
        read_pack(tmp_path / "p")
    (tmp_path / "p" / PACK_NAME).write_text(text.replace("sounds/00000.wav", "../../etc/passwd"))
    with pytest.raises(DataError, match="passwd"):
        read_pack(tmp_path / "p")
    (tmp_path / "p" / PACK_NAME).write_text(text)
    voice = read_pack(tmp_path / "p").prompts[0].voice
    assert voice is not None
    write_wav(tmp_path / "p" / str(voice.wav), WAV_T / 2)
    with pytest.raises(DataError, match="not the file"):
        read_sound(tmp_path / "p", voice)


def test_prompts_that_share_an_id_or_have_no_text_leave_nothing_behind(tmp_path: Path) -> None:
    for wrong in ([], [Draft("a", "en", "x"), Draft("a", "en", "y")], [Draft("a", "en", " ")]):
        with pytest.raises(DataError):
            build_pack(wrong, tmp_path / "p")
    assert not list(tmp_path.iterdir())


def test_a_held_out_set_gives_recordings_references_and_voices_across_languages(pack_folder: Path) -> None:
    pack = read_pack(pack_folder)
    plain = [p for p in pack.prompts if not p.subset]
    across = [p for p in pack.prompts if p.subset == "cross_lingual"]
    assert len(across) == 4
    assert all(p.voice_language and p.voice_language != p.language for p in across)
    assert all(p.recording is not None for p in plain)
    recording = plain[0].recording
    assert recording is not None
    codes_F = read_sound(pack_folder, recording).codes_F
    assert codes_F is not None
    assert codes_F.dtype == np.uint16
    assert pack.codec_hash == open_store(ROOT / "demo_data").manifest.codec.hash  # type: ignore[union-attr]


def test_held_out_prompts_are_in_the_store_and_not_in_what_training_reads(held_out: Path, pack_folder: Path) -> None:
    pack, store = read_pack(pack_folder), open_store(ROOT / "demo_data")
    kinds = {one.kind for one in contamination(pack, pack_folder, [store]).overlaps}
    assert {"exact text", "codes of the recording", "codes of the reference"} <= kinds
    found = contamination(pack, pack_folder, [store], read_held_out_set(held_out).held_out.all)
    assert not [one for one in found.overlaps if one.kind == "codes of the recording"], found.lines()
    assert found.num_sounds > 0
    assert found.num_sounds_not_compared == 0


def test_a_text_that_differs_in_spelling_alone_is_found(tmp_path: Path) -> None:
    store = open_store(ROOT / "demo_data")
    part = next(p for p in store.parts if p.language == "hi" and "native" in p.variants)
    text = part.row(0).transcript_native or ""
    found = build_pack([Draft("a", "hi", f"  {text} !!"), Draft("b", "hi", "कुछ और")], tmp_path / "p")
    overlap = contamination(found, tmp_path / "p", [store]).overlaps
    assert {(one.prompt_id, one.kind) for one in overlap} == {("a", "normalized text")}
    assert "overlap" in contamination(found, tmp_path / "p", [store]).lines()[-1]


def test_each_prompt_of_a_text_is_found_however_it_is_written(tmp_path: Path) -> None:
    store = open_store(ROOT / "demo_data")
    part = next(p for p in store.parts if p.language == "hi" and "native" in p.variants)
    text = part.row(0).transcript_native or ""
    found = build_pack([Draft("a", "hi", text), Draft("b", "hi", f"{text} !!")], tmp_path / "p")
    overlap = contamination(found, tmp_path / "p", [store]).overlaps
    assert {(one.prompt_id, one.kind) for one in overlap} == {("a", "exact text"), ("b", "normalized text")}


def test_sounds_of_another_codec_are_not_said_to_be_absent(tmp_path: Path) -> None:
    voiced = [Draft("a", "en", "unheard of", "", Sound(codes_F=np.arange(50, dtype=np.uint16)))]
    pack = build_pack(voiced, tmp_path / "p", codec_hash="other")
    found = contamination(pack, tmp_path / "p", [open_store(ROOT / "demo_data")])
    assert (found.num_sounds, found.num_sounds_not_compared) == (0, 1)


def test_prompts_from_text_have_language_and_subset_from_the_line_or_the_name(tmp_path: Path) -> None:
    (tmp_path / "hi.numbers.txt").write_text("पाँच\n\n१२\n")
    assert [(d.language, d.subset, d.text) for d in text_drafts(tmp_path / "hi.numbers.txt")] == [
        ("hi", "numbers", "पाँच"),
        ("hi", "numbers", "१२"),
    ]
    write_wav(tmp_path / "v.wav", WAV_T)
    rows = [{"text": "hello", "language": "eng", "voice": "v.wav", "voice_text": "hi", "subset": "short"}]
    rows.append({"text": "one\u2028line", "language": "en"})
    (tmp_path / "p.jsonl").write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    draft, other = text_drafts(tmp_path / "p.jsonl")
    assert other.text == "one\u2028line"
    assert (draft.language, draft.subset, draft.voice_text) == ("en", "short", "hi")
    assert draft.voice is not None
    for line in (
        '{"text": "x"}',
        '{"text": "x", "language": "en", "txt": "y"}',
        '["x"]',
        '{"text": 1, "language": "en"}',
    ):
        (tmp_path / "p.jsonl").write_text(line)
        with pytest.raises(DataError, match="line 1"):
            text_drafts(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_text('{"text": "x", "language": "en", "voice": "/etc/passwd"}')
    with pytest.raises(DataError, match="outside"):
        text_drafts(tmp_path / "p.jsonl")


def test_the_layout_of_seed_tts_eval(tmp_path: Path) -> None:
    (tmp_path / "prompt-wavs").mkdir()
    write_wav(tmp_path / "prompt-wavs" / "a.wav", WAV_T)
    (tmp_path / "meta.lst").write_text(
        "u1|the voice|prompt-wavs/a.wav|the text\nu2|v|prompt-wavs/a.wav|t|wavs/u2.wav\n"
    )
    found = list(seed_tts(tmp_path / "meta.lst", "en"))
    assert [(d.prompt_id, d.text, d.voice_text, d.recording) for d in found] == [
        ("u1", "the text", "the voice", None),
        ("u2", "t", "v", None),
    ]
    with pytest.raises(DataError, match="--language"):
        list(seed_tts(tmp_path / "meta.lst", ""))
    (tmp_path / "meta.lst").write_text("u1|x|t")
    with pytest.raises(DataError, match="3 fields"):
        list(seed_tts(tmp_path / "meta.lst", "en"))


def test_the_layout_of_minimax(tmp_path: Path) -> None:
    voice = tmp_path / "speaker" / "hindi" / "hindi_female"
    voice.mkdir(parents=True)
    write_wav(voice / "common_voice_hi_1.wav", WAV_T)
    (tmp_path / "speaker" / "prompt_text.txt").write_text("common_voice_hi_1.wav|यह आवाज़\n")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "hindi.txt").write_text("hindi_female|एक\ncommon_voice_hi_1.wav|दो\n")
    found = list(minimax(tmp_path))
    assert [(d.language, d.text, d.voice_text) for d in found] == [("hi", "एक", "यह आवाज़"), ("hi", "दो", "यह आवाज़")]
    assert [d.language for d in minimax(tmp_path, "hi")] == ["hi", "hi"]
    (tmp_path / "speaker" / "hindi").rename(tmp_path / "speaker" / "chinese")
    (tmp_path / "text" / "hindi.txt").rename(tmp_path / "text" / "chinese.txt")
    assert [d.language for d in minimax(tmp_path, "zh")] == ["zh", "zh"]
    (tmp_path / "text" / "chinese.txt").write_text("nobody|एक\n")
    with pytest.raises(DataError, match="no audio of 'nobody'"):
        list(minimax(tmp_path))


def test_the_layout_of_emergent(tmp_path: Path) -> None:
    row = {"text_to_synthesize": "Really?", "category": "Foreign Words", "unique_id_eval": 7}
    (tmp_path / "e.jsonl").write_text(json.dumps(row))
    found = list(emergent(tmp_path / "e.jsonl"))
    assert [(d.prompt_id, d.language, d.subset) for d in found] == [("emergent-7", "en", "foreign_words")]
    (tmp_path / "e.jsonl").write_text("{}")
    with pytest.raises(DataError, match="text_to_synthesize"):
        list(emergent(tmp_path / "e.jsonl"))


def test_a_pack_of_another_version_says_so(tmp_path: Path) -> None:
    build_pack(drafts(), tmp_path / "p")
    content = json.loads((tmp_path / "p" / PACK_NAME).read_text())
    (tmp_path / "p" / PACK_NAME).write_text(json.dumps(content | {"version": PromptPack("", ()).version + 1}))
    with pytest.raises(DataError, match="version"):
        read_pack(tmp_path / "p")
