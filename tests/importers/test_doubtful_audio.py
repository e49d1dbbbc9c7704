"""Audio that is of no use as it is: silence, text in other encodings, kinds of files that are not read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.import_samples import imported, opened
from titan_speech.cli.main import main
from titan_speech.codec.wav import write_wav
from titan_speech.errors import DataError
from titan_speech.importers.audio import describe_silence
from titan_speech.store.reader import open_store

ROOT = Path(__file__).parents[2]
TONE_T = (np.sin(np.arange(16_000) * 0.02) / 2).astype(np.float32)


@pytest.fixture(name="folder")
def two_recordings(tmp_path: Path) -> Path:
    """in/speech.wav, and in/silence.wav with noise of two bits; both with transcripts."""
    folder = tmp_path / "in"
    folder.mkdir()
    noise_T = np.random.default_rng(0).integers(-2, 3, 16_000).astype(np.float32) / 32768
    for name, wav_T in (("speech", TONE_T), ("silence", noise_T)):
        write_wav(folder / f"{name}.wav", wav_T)
        (folder / f"{name}.txt").write_text(f"The words of {name}.")
    return folder


def build(folder: Path, output: Path, *more: str) -> int:
    words = f"store build --from audio --input {folder} --codec embedded --language en --source tapes --name n"
    words += f" --licence own --tokenizer {ROOT / 'tokenizer/tiny'} --workers 1 --output {output}"
    return main([*words.split(), *more])


def test_silence_is_warned_of_and_counted_and_left_out_on_request(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(folder, tmp_path / "kept") == 0
    said = capsys.readouterr().err
    assert "warning: 1 doubtful sample in the store; --skip-bad leaves out what is doubtful" in said
    assert "sample 'silence' of " in said
    assert "silent: its loudest 20 ms are at -8" in said
    assert json.loads((tmp_path / "kept/build_report.json").read_text())["doubted"]["silent"]["count"] == 1
    assert sum(part.num_samples for part in open_store(tmp_path / "kept").parts) == 2

    assert build(folder, tmp_path / "left", "--skip-bad") == 0
    assert "left out" in capsys.readouterr().err
    assert json.loads((tmp_path / "left/build_report.json").read_text())["dropped"]["silent"]["count"] == 1
    (part,) = open_store(tmp_path / "left").parts
    assert [part.row(0).sample_id, part.num_samples] == ["speech", 1]


def test_quiet_speech_is_not_silence() -> None:
    assert describe_silence(TONE_T * 0.01) is None
    assert describe_silence(np.concatenate([np.zeros(16_000, np.float32), TONE_T * 0.01])) is None
    problem = describe_silence(np.zeros(16_000, np.float32))
    assert problem is not None
    assert "-inf dBFS" in problem.detail


def test_a_text_in_another_encoding_names_the_remedy_and_all_are_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "speech.txt").write_bytes("Café déjà vu".encode("latin-1"))
    (folder / "silence.txt").write_bytes("Hold the line".encode("utf-16"))
    with pytest.raises(DataError, match=r"silence.txt is UTF-16, .*iconv -f UTF-16 -t UTF-8 .*and 1 more"):
        imported("audio", folder, codec="embedded")
    (folder / "silence.txt").write_bytes("\ufeffHold the line".encode())
    with pytest.raises(DataError, match=r"speech.txt is not UTF-8 \(byte 0xe9 at position 3\): .*iconv -f LATIN1"):
        imported("audio", folder, codec="embedded")
    assert (
        build(folder, tmp_path / "store", "--skip-bad") == 2
    )  # a silent one, and one that cannot be read: none is left
    (folder / "speech.txt").write_text("Café déjà vu", encoding="utf-8-sig")
    samples = imported("audio", folder, codec="embedded")
    assert samples["speech"].transcripts == {"native": "Café déjà vu"}


def test_compressed_audio_in_folders_is_read_and_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    endings = ("ogg", "mp3", "opus", "flac", "aiff", "wav")
    for ending in endings:
        format_ = {"opus": "OGG"}.get(ending)
        subtype = {"opus": "OPUS"}.get(ending)
        soundfile.write(tmp_path / f"{ending}.{ending}", TONE_T, 16_000, format=format_, subtype=subtype)
        (tmp_path / f"{ending}.txt").write_text(ending)
    samples = imported("audio", tmp_path, codec="embedded")
    assert {name: sample.transcripts["native"] for name, sample in samples.items()} == {name: name for name in endings}
    assert all(50 <= len(sample.codes_T) <= 60 for sample in samples.values())
    (tmp_path / "old.m4a").write_bytes(b"")
    with pytest.raises(DataError, match=r"old.m4a is not of a kind that is read .*: convert it, ffmpeg -i old.m4a"):
        opened("audio", tmp_path, codec="embedded")


def test_an_output_that_cannot_be_written_does_not_advise_to_try_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(folder, Path("/proc/xx/store")) == 2
    said = capsys.readouterr().err
    assert "cannot be built there: " in said
    assert "choose an output in a folder you can write to" in said
    assert "again" not in said


def test_a_build_imports_again_what_changed_in_a_listing_or_a_text(folder: Path) -> None:
    (unit,) = opened("audio", folder, codec="embedded").units()
    assert {path.name for path in unit.other_paths} == {"speech.wav", "speech.txt", "silence.wav", "silence.txt"}
    (folder / "metadata.csv").write_text("speech|Hold the line\n")
    (unit,) = opened("audio", folder, codec="embedded").units()
    assert [path.name for path in unit.other_paths] == ["speech.wav", "metadata.csv"]


def test_a_file_is_a_recording_of_its_own_unless_its_source_is_known(folder: Path) -> None:
    info = imported("audio", folder, codec="embedded")["speech"].info
    assert (info.start_time, info.end_time, info.source_video_id) == (0.0, 1.0, None)
    line = {"path": "speech.wav", "source_video_id": "tape 7"}
    (folder / "metadata.jsonl").write_text(json.dumps(line))
    info = imported("audio", folder, codec="embedded")["speech"].info
    assert (info.start_time, info.end_time, info.source_video_id) == (None, None, "tape 7")


def test_a_wrong_language_is_refused_before_anything_is_encoded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(folder, tmp_path / "store", "--language", "Swahili") == 2
    said = capsys.readouterr().err
    assert "--language 'Swahili': expected a BCP 47 tag such as 'hi'" in said
    assert "imported" not in said
