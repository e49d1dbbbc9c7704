"""Folders and listings of real speech become codes of a named codec, with transcripts; unusable audio is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.import_samples import imported, opened
from tests.support.xcodec2_folder import write_xcodec2
from titan_speech.codec.base import Codec
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import read_audio, read_resampled, write_wav
from titan_speech.errors import CodecError, DataError
from titan_speech.importers import audio
from titan_speech.importers.base import KnowsCodec
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import open_store

ROOT = Path(__file__).parents[2]
ASSETS = Path(__file__).parents[1] / "assets"
ENGLISH, HINDI = ASSETS / "en-pls-hold-while-try.wav", ASSETS / "hi-espeak-library-name.wav"
TEXTS = {"one": "Please hold while we try to connect you.", "two": "लाइब्रेरी नाम ३० वर्ण तक ही हो सकता है।"}


@pytest.fixture(scope="module", name="codec")
def embedded_codec() -> Codec:
    return load_codec("embedded")


@pytest.fixture(name="folder")
def speakers_folder(tmp_path: Path) -> Path:
    """in/en/allison/one.wav and in/hi/espeak/two.flac with transcripts of the same names."""
    for place, wav, name in (("en/allison", ENGLISH, "one.wav"), ("hi/espeak", HINDI, "two.flac")):
        folder = tmp_path / "in" / place
        folder.mkdir(parents=True)
        if name.endswith("flac"):
            soundfile.write(folder / name, *soundfile.read(wav, dtype="int16"))
        else:
            shutil.copy(wav, folder / name)
        stem = name.partition(".")[0]
        (folder / f"{stem}.txt").write_text(f"{TEXTS[stem]}\n", encoding="utf-8")
    return tmp_path / "in"


def test_a_folder_with_texts_gives_codes_transcripts_and_names_of_folders(folder: Path, codec: Codec) -> None:
    columns = {"speaker_id": "@folder", "language": "@folder2"}
    samples = imported("audio", folder, columns=columns, language=None, codec="embedded")
    assert list(samples) == ["en/allison/one", "hi/espeak/two"]
    one, two = samples.values()
    assert np.array_equal(one.codes_T, codec.encode(read_audio(ENGLISH)))
    assert np.array_equal(two.codes_T, codec.encode(read_audio(HINDI)))
    assert (one.info.speaker_id, one.info.language, one.info.sample_rate) == ("allison", "en", 16_000)
    assert (two.info.speaker_id, two.info.language, two.info.dataset_source) == ("espeak", "hi", "tapes")
    assert (one.transcripts, two.transcripts) == ({"native": TEXTS["one"]}, {"native": TEXTS["two"]})


def test_the_codec_and_the_hash_of_its_weights_are_named(folder: Path, codec: Codec) -> None:
    source = opened("audio", folder, codec="embedded")
    assert isinstance(source, KnowsCodec)
    info = source.codec_info()
    assert info is not None
    assert (info.name, info.hash, info.codes_per_sec) == ("embedded", codec.codec_hash, 50)


def test_ljspeech_hugging_face_and_jsonl_listings_give_the_same_samples(tmp_path: Path, codec: Codec) -> None:
    (tmp_path / "wavs").mkdir()
    shutil.copy(ENGLISH, tmp_path / "wavs/one.wav")
    shutil.copy(HINDI, tmp_path / "wavs/two.wav")
    (tmp_path / "metadata.csv").write_text(
        "".join(f"{name}|{text}\n" for name, text in TEXTS.items()), encoding="utf-8"
    )
    bars = imported("audio", tmp_path, columns={"transcript_native": "text"}, codec="embedded")
    assert list(bars) == ["one", "two"]
    rows = "".join(f'wavs/{name}.wav,"{text}, that is",s1\n' for name, text in TEXTS.items())
    (tmp_path / "metadata.csv").write_text(f"file_name,text,spk\n{rows}", encoding="utf-8")
    commas = imported("audio", tmp_path, columns={"transcript_native": "text", "speaker_id": "spk"}, codec="embedded")
    lines = [{"wav": f"wavs/{name}.wav", "utt": name, "text": text, "lang": "en"} for name, text in TEXTS.items()]
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    columns = {"audio": "wav", "sample_id": "utt", "transcript_native": "text", "language": "lang"}
    objects = imported("audio", tmp_path / "list.jsonl", columns=columns, language=None, codec="embedded")
    assert list(objects) == ["one", "two"]
    assert list(commas) == ["wavs/one", "wavs/two"]
    assert commas["wavs/one"].transcripts == {"native": f"{TEXTS['one']}, that is"}
    assert commas["wavs/one"].info.speaker_id == "s1"
    for found in (bars, commas, objects):
        for sample, wav in zip(found.values(), (ENGLISH, HINDI), strict=True):
            assert np.array_equal(sample.codes_T, codec.encode(read_audio(wav)))
    assert [sample.transcripts["native"] for sample in objects.values()] == list(TEXTS.values())


def test_other_rates_and_channels_are_converted_to_those_of_the_codec(tmp_path: Path, codec: Codec) -> None:
    tone_T = np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000).astype(np.float32) / 2
    soundfile.write(tmp_path / "a.wav", np.stack([tone_T, tone_T], axis=1), 48_000)
    wav_T, rate = read_resampled(tmp_path / "a.wav")
    assert (len(wav_T), rate) == (16_000, 48_000)
    expected_T = np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000) / 2
    assert np.abs(wav_T - expected_T)[400:-400].max() < 1e-3
    sample = imported("audio", tmp_path, codec="embedded")["a"]
    assert np.array_equal(sample.codes_T, codec.encode(wav_T))
    assert sample.info.sample_rate == 48_000


def test_long_audio_is_refused_or_cut_into_equal_pieces_on_request(tmp_path: Path, codec: Codec) -> None:
    wav_T = np.tile(read_audio(ENGLISH), 35)[: 81 * 16_000 + 7]
    write_wav(tmp_path / "talk.wav", wav_T)
    (tmp_path / "talk.txt").write_text("all of it")
    with pytest.raises(DataError, match=r"talk.wav is 81.0 s long, more than 40 s: .*--long-audio split"):
        imported("audio", tmp_path, codec="embedded")
    pieces = list(imported("audio", tmp_path, codec="embedded", long_audio="split").values())
    assert [piece.info.sample_id for piece in pieces] == ["talk#0", "talk#1", "talk#2"]
    assert [piece.info.segment_order for piece in pieces] == [0, 1, 2]
    assert {piece.info.source_video_id for piece in pieces} == {"talk"}
    assert all(not piece.transcripts for piece in pieces)
    assert [len(piece.codes_T) for piece in pieces] == [1350, 1350, 1351]
    assert pieces[0].info.end_time == pieces[1].info.start_time == 27.0
    cut_T = read_audio(tmp_path / "talk.wav")[27 * 16_000 : 54 * 16_000]
    assert np.array_equal(pieces[1].codes_T, codec.encode(cut_T))
    with pytest.raises(DataError, match="'cut': expected 'error' or 'split'"):
        opened("audio", tmp_path, codec="embedded", long_audio="cut")


def test_units_and_batches_of_any_size_give_the_same_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = imported("audio", folder, codec="embedded")
    monkeypatch.setattr(audio, "UNIT_CLIPS", 1)
    source = opened("audio", folder, codec="embedded")
    assert [(unit.name, unit.start, unit.stop) for unit in source.units()] == [("in:0-1", 0, 1), ("in:1-2", 1, 2)]
    assert [unit.other_paths[0].name for unit in source.units()] == ["one.wav", "two.flac"]
    parts = imported("audio", folder, codec="embedded")
    assert [sample.info for sample in parts.values()] == [sample.info for sample in whole.values()]
    assert all(np.array_equal(parts[key].codes_T, whole[key].codes_T) for key in whole)


def test_xcodec2_encodes_from_its_folder(folder: Path, tmp_path: Path) -> None:
    codec = load_codec(write_xcodec2(tmp_path / "xcodec2"))
    samples = imported("audio", folder, codec=str(tmp_path / "xcodec2"))
    for sample, wav in zip(samples.values(), (ENGLISH, HINDI), strict=True):
        assert np.array_equal(sample.codes_T, codec.encode(read_audio(wav)))


def test_speech_of_the_demo_decoded_to_wav_comes_back_frame_by_frame(tmp_path: Path, codec: Codec) -> None:
    part = next(part for part in open_store(ROOT / "demo_data").parts if part.info.kind is Kind.SPEECH)
    chosen = int(np.argmin(np.abs(part.code_len_N - 60)))
    codes_F, wav_T = part.codes(chosen), codec.decode(part.codes(chosen))
    write_wav(tmp_path / "demo.wav", wav_T)
    again_F = imported("audio", tmp_path, codec="embedded")["demo"].codes_T
    assert len(again_F) == len(codes_F)
    assert np.array_equal(again_F, codec.encode(read_audio(tmp_path / "demo.wav")))
    assert len(np.unique(again_F)) > 0.4 * len(again_F)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the codec that encodes: --codec with 'embedded'"),
        ({"codec": "embedded", "columns": {"codes": "x"}}, "audio has no codes yet"),
        ({"codec": "embedded", "columns": {"speaker_id": "spk"}}, "has no column 'spk', named for speaker_id; found"),
        (
            {"codec": "embedded", "columns": {"speaker_id": "@folder3"}},
            "has no column '@folder3'.*did you mean '@folder",
        ),
        ({"codec": "embedded", "language": None}, "has no 'language' for language"),
    ],
)
def test_missing_or_misnamed_options_are_refused(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened("audio", folder, **options)


def test_a_text_without_its_recording_is_refused_and_recordings_without_one_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = folder / "en/allison/one.txt"
    text.rename(text.with_name("onne.txt"))
    with pytest.raises(DataError, match=r"onne.txt has no audio file .* of the same name next to it: give"):
        opened("audio", folder, codec="embedded")
    text.with_name("onne.txt").unlink()
    opened("audio", folder, codec="embedded")
    assert "1 of 2 recordings have no .txt of the same name" in capsys.readouterr().err


def test_an_unknown_codec_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(CodecError, match="unknown codec 'encodec'"):
        opened("audio", folder, codec="encodec")


def test_unreadable_empty_and_short_audio_is_named_and_counted(folder: Path) -> None:
    (folder / "a.wav").write_bytes(b"no audio")
    (folder / "b.wav").write_bytes(ENGLISH.read_bytes()[:30])
    write_wav(folder / "c.wav", np.zeros(100, np.float32))
    with pytest.raises(DataError, match=r"sample 'a': cannot read .*a.wav as wav: .*and 2 more"):
        imported("audio", folder, codec="embedded")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", "one|a\nthree|b\n", r"metadata.csv:2: no audio of 'three'; expected .*wavs/three.wav"),
        ("metadata.csv", "one|a|b|c\n", r"metadata.csv:1 has 4 fields between bars"),
        ("metadata.csv", "file_name,text\none.wav,a,b\n", r"metadata.csv:2 has not the 2 fields of the header"),
        (
            "metadata.csv",
            "name,text\none.wav,a\n",
            r"metadata.csv:2 has no column 'audio_filepath or .*--columns audio=",
        ),
        (
            "metadata.jsonl",
            '{"path": "three.wav"}\n',
            r"metadata.jsonl:1: .*three.wav does not exist; paths are relative",
        ),
        ("metadata.jsonl", "{\n", r"metadata.jsonl:1 is not JSON"),
        ("metadata.jsonl", "\n", r"metadata.jsonl lists no audio"),
    ],
)
def test_listings_that_do_not_fit_are_named_with_their_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    shutil.copy(ENGLISH, tmp_path / "one.wav")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        opened("audio", tmp_path, codec="embedded")


def test_the_error_for_a_folder_without_audio_names_the_format_it_looks_like(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"no .wav or .* file .*folder of .tar files .x.tar.: try --from webdataset"):
        opened("audio", tmp_path, codec="embedded")


def test_texts_keep_their_own_line_ends(tmp_path: Path) -> None:
    for number in range(2):
        shutil.copy(ENGLISH, tmp_path / f"{number}.wav")
    texts = {"metadata.csv": "first\nsecond", "metadata.jsonl": "first\u2028second"}
    (tmp_path / "metadata.csv").write_text(f'file_name,transcript_native\n0.wav,"{texts["metadata.csv"]}"\n')
    line = {"file_name": "1.wav", "transcript_native": texts["metadata.jsonl"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
    for name, text in texts.items():
        (sample,) = imported("audio", tmp_path / name, codec="embedded").values()
        assert sample.transcripts == {"native": text}
