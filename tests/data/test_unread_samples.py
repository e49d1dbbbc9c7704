"""The plan counts samples that it does not read by the reason: held out, no transcript, no partner, too long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.store.test_held_out_set import write_gold
from tests.support.plan_samples import World, with_training
from tests.support.store_samples import CODEC, write_tokenizer
from titan_speech.config.schema import SpeechConfig
from titan_speech.data import unread_samples
from titan_speech.data.inspect import order_lines, show_lines
from titan_speech.data.plan import DataPlan
from titan_speech.data.unread_samples import count_unread
from titan_speech.errors import DataError
from titan_speech.store import derived_cache
from titan_speech.store.sample import SampleInfo
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer

SPEAKERS = {**{f"pair-{i}": f"speaker-{i % 4}" for i in range(60)}, "alone-0": "hermit", "nobody-0": None}
LONG = "long-0"


@pytest.fixture(scope="module", name="world")
def a_store_of_all_reasons(tmp_path_factory: pytest.TempPathFactory) -> World:
    """60 samples of four speakers; one of a speaker of its own, one without speaker, one of 120 codes, 5 untranscribed,
    and a recording of five segments, of which the last is far away."""
    folder = tmp_path_factory.mktemp("reasons")
    write_tokenizer(folder / "tokenizer")
    rng = np.random.default_rng(0)
    with StoreWriter(
        folder / "store",
        name="reasons",
        codec=CODEC,
        tokenizer=TextTokenizer.load(folder / "tokenizer"),
        normalization_version="nfc-1",
        licence="CC0-1.0",
    ) as writer:

        def add(sample_id: str, num_codes: int = 30, *, has_text: bool = True, **info: object) -> None:
            codes_T = rng.integers(0, 65_536, num_codes, dtype=np.uint16)
            row = SampleInfo(sample_id=sample_id, dataset_source="calls", language="en", **info)  # type: ignore[arg-type]
            writer.add_speech(row, codes_T, {"native": "press a key"} if has_text else None)

        for sample_id, speaker in SPEAKERS.items():
            add(sample_id, speaker_id=speaker)
        add(LONG, 120, speaker_id="speaker-0")
        for i in range(5):
            add(f"silent-{i}", has_text=False, speaker_id="speaker-1")
        for i, start in enumerate((0.0, 0.6, 1.2, 1.8, 60.0)):
            place = {"source_video_id": "tape", "segment_order": i, "start_time": start, "end_time": start + 0.6}
            add(f"tape-{i}", speaker_id="speaker-2", **place)
    return World(folder / "tokenizer", folder / "store")


def configured(world: World, task: str, **source: object) -> SpeechConfig:
    return world.config(world.source(task, 1.0, **source), too_long="drop")


def unread_of(config: SpeechConfig) -> dict[str, int]:
    (stream,) = DataPlan.load(config).streams
    counts = count_unread(stream.documents)
    assert config.data.source[0].stitch_gap_sec or sum(counts.values()) == stream.counts.num_unusable
    return dict(counts)


def held_out(config: SpeechConfig, tmp_path: Path) -> SpeechConfig:
    gold = write_gold(tmp_path / "gold", ["pair-0", "pair-1", "silent-0"])
    return replace(config, data=replace(config.data, held_out=(str(gold),)))


def test_tts_counts_held_out_and_untranscribed_apart(world: World, tmp_path: Path) -> None:
    config = configured(world, "tts")
    assert unread_of(config) == {"without native transcript": 5}
    config = held_out(config, tmp_path)
    assert unread_of(config) == {"held out": 3, "without native transcript": 4}
    table = DataPlan.load(config).describe()
    assert "tts.en: not read as tts: 3 held out, 4 without native transcript" in table
    assert "lack what" not in table


def test_clone_names_why_a_sample_has_no_reference(world: World, tmp_path: Path) -> None:
    config = held_out(configured(world, "clone"), tmp_path)
    assert unread_of(config) == {
        "held out": 3,
        "without native transcript": 4,
        "without speaker_id": 1,
        "without another transcribed segment of the speaker": 1,
        "without a reference that does not overlap and keeps the pair within 128 tokens": 1,
    }


def test_stitched_segments_are_read_and_only_the_others_are_counted(world: World) -> None:
    config = with_training(
        configured(world, "speech", stitch_gap_sec=1.0), seq_len=64, global_batch_tokens=640, local_batch_packs=2
    )
    assert unread_of(config) == {
        "without source_video_id, speaker_id, segment_order or times": 68,
        "without a neighbour in their recording within 1 s": 1,
    }


def test_a_source_with_too_little_left_is_refused_with_the_reasons(world: World) -> None:
    config = with_training(configured(world, "clone"), seq_len=66, global_batch_tokens=660)
    with pytest.raises(
        DataError, match=r"fewer than one pack of 66 \(not read as clone: 5 without native transcript, "
    ):
        DataPlan.load(config)


def test_the_data_commands_report_them_too(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = held_out(configured(world, "tts"), tmp_path)
    assert list(show_lines(config, color=False))
    assert list(order_lines(config, 0, 1))
    line = "tts.en: not read as tts: 3 held out, 4 without native transcript"
    assert capsys.readouterr().err.count(line) == 2


def test_counts_of_large_parts_are_cached_and_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(world, "clone")
    expected = unread_of(config)
    monkeypatch.setattr(derived_cache, "MIN_ITEMS", 1)
    assert unread_of(config) == expected
    monkeypatch.setattr(unread_samples, "_count", None)
    assert unread_of(config) == expected
