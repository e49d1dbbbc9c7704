"""The evaluate commands on real files, with the scorers that need no model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.codec.wav import write_wav
from titan_speech.evaluate.prompt_packs.prompt_pack import read_pack
from titan_speech.evaluate.result import read_result
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FOUND_WRONG
from titan_speech.store.reader import open_store


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings of the demo, as wavs."""
    folder, codec = tmp_path_factory.mktemp("clips"), load_codec("embedded")
    part = next(p for p in open_store(ROOT / "demo_data").parts if p.name == "asterisk.en.speech")
    rows = []
    for i in np.flatnonzero((part.code_len_N > 60) & (part.code_len_N < 120))[:6].tolist():
        write_wav(folder / f"{i}.wav", codec.decode(np.array(part.codes(i))))
        rows.append(
            {"wav": f"{i}.wav", "recording": f"{i}.wav", "language": "en", "text": part.row(i).transcript_native}
        )
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "list.jsonl"


def test_clips_are_scored_and_a_result_compared_with_itself_is_equal(
    listing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.json"
    assert main(["evaluate", "clips", str(listing), "--output", str(output)]) == EXIT_DONE
    out = capsys.readouterr().out
    assert "duration_ratio" in out
    assert "without a value: no codes" in out
    result = read_result(output)
    assert len(result.clips) == 6
    assert all(clip.scores["duration_ratio"].value == 1.0 for clip in result.clips)
    assert main(["evaluate", "compare", str(output), str(output)]) == EXIT_DONE
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("silence")]
    assert rows[0][-1] == "no"
    assert main(["evaluate", "compare", str(output), str(output), "--best", "--metric", "silence"]) == EXIT_DONE
    assert "best: " in capsys.readouterr().out


def test_clips_that_are_compared_with_other_recordings_are_another_series(listing: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in listing.read_text().splitlines()[:2]]
    for number, row in enumerate(rows):
        row["recording"] = rows[1 - number]["wav"]
    (listing.parent / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for row in rows:
        row["recording"] = rows[0]["wav"]
    (listing.parent / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    series = []
    for name in ("two", "two", "other"):
        assert (
            main(["evaluate", "clips", str(listing.parent / f"{name}.jsonl"), "--output", str(tmp_path / "r.json")])
            == 0
        )
        series.append(read_result(tmp_path / "r.json").key.series)
    assert series[0] == series[1] != series[2]


def test_a_file_that_cannot_be_read_is_marked_and_the_exit_code_says_so(
    listing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.wav").write_bytes(b"no sound")
    write_wav(tmp_path / "yes.wav", np.sin(np.arange(16_000) / 20).astype(np.float32) / 3)
    rows = [{"wav": f"{name}.wav", "language": "en", "text": "x"} for name in ("no", "yes")]
    rows.append({**rows[1], "prompt_id": "recorded", "recording": "nowhere.wav"})
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["evaluate", "clips", str(tmp_path / "l.jsonl")]) == EXIT_FOUND_WRONG
    said = capsys.readouterr().out
    assert "failed: no.wav: no audio: cannot read the file as wav: " in said
    assert "failed: recorded: the recording: no audio: cannot read the file as wav: " in said
    assert str(tmp_path) not in said


def test_a_pack_is_made_scored_and_found_in_its_own_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out, pack = str(tmp_path / "gold"), str(tmp_path / "pack")
    made = ["store", "held-out", str(ROOT / "demo_data"), "--output", held_out, "--num-ce", "51", "--num-decode", "4"]
    assert main([*made, "--by", "sample"]) == EXIT_DONE
    (tmp_path / "hi.numbers.txt").write_text("पाँच सौ\n")
    command = ["evaluate", "pack", "--held-out", held_out, "--text", str(tmp_path / "hi.numbers.txt"), "--output", pack]
    assert main(command) == EXIT_DONE
    assert "numbers" in capsys.readouterr().out
    assert main(command) == EXIT_BAD_INPUT
    assert main(["evaluate", "clips", "--pack", pack, "--output", str(tmp_path / "r.json")]) == EXIT_DONE
    scored = read_result(tmp_path / "r.json")
    assert all(clip.scores["repeats"].value is not None for clip in scored.clips)
    assert scored.key.pack == f"{read_pack(Path(pack)).hash}-full"
    against = ["evaluate", "contamination", str(ROOT / "demo_data"), "--pack", pack]
    assert main(against) == EXIT_FOUND_WRONG
    assert "overlap: scores of these prompts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "clips"], "give a listing"),
        (["evaluate", "clips", "LIST", "--asr", "/nowhere"], "found no folder '/nowhere'"),
        (["evaluate", "clips", "LIST", "--trust", "/nowhere.json"], "no trust table"),
        (["evaluate", "clips", "LIST", "--asr", "openai/not-here"], "hf download openai/not-here"),
        (["evaluate", "compare", "/nowhere.json", "/nowhere.json"], "no result can be read"),
        (["evaluate", "pack", "--output", "new"], "no source of prompts"),
        (["evaluate", "run", "--model", "m", "--pack", "p", "--output", "s3://b/c"], "not an address"),
    ],
)
def test_bad_input_is_one_message(
    listing: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "/nowhere" in words or "openai/not-here" in words:
        words = [*words, "--trust", str(write_trust(listing.parent))]
    assert main([str(listing) if word == "LIST" else word for word in words]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def write_trust(folder: Path) -> Path:
    (folder / "trust.json").write_text('{"version": 1, "rows": [], "bounds": {}, "rules": "r", "about": ""}')
    return folder / "trust.json"
