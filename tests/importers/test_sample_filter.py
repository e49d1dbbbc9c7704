"""`--max-duration-sec` and `--drop-empty-transcripts`: what they leave out is counted by reason, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.store_samples import write_tokenizer
from titan_speech.cli.main import main
from titan_speech.store.reader import open_store

SAMPLES = {
    "kept": (1500, {"transcript_native": "thirty seconds."}),
    "long": (1501, {"transcript_native": "one code more"}),
    "marks": (10, {"transcript_native": "...!"}),
    "danda": (10, {"transcript_native": "।"}),
    "blank": (10, {"transcript_native": "  "}),
    "none": (10, {}),
    "described": (10, {"transcript_description": "a calm voice"}),
    "hindi": (10, {"transcript_native": "हाँ।"}),
    "digits": (10, {"transcript_native": "42"}),
    "half": (10, {"transcript_native": "yes", "transcript_romanized": "?"}),
}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A build of all samples, without its output."""
    rows = [{"sample_id": name, "codes": [7] * count, **texts} for name, (count, texts) in SAMPLES.items()]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    words = ["store", "build", "--from", "jsonl", "--input", str(tmp_path / "a.jsonl"), "--source", "s"]
    words += ["--language", "en", "--tokenizer", str(write_tokenizer(tmp_path / "tokenizer")), "--name", "n"]
    words += ["--licence", "CC0-1.0", "--codec-name", "xcodec2", "--codec-hash", "0" * 64, "--workers", "1"]
    return words


def ids(store: Path) -> set[str]:
    return {part.row(i).sample_id for part in open_store(store).parts for i in range(len(part.code_len_N))}


def test_what_is_left_out_is_counted_by_reason(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filters = ["--max-duration-sec", "30", "--drop-empty-transcripts"]
    assert main([*words, "--output", str(tmp_path / "out"), *filters]) == 0
    assert ids(tmp_path / "out") == {"kept", "hindi", "digits"}
    report = json.loads((tmp_path / "out" / "build_report.json").read_text())
    assert {reason: found["count"] for reason, found in report["filtered"].items()} == {
        "longer than --max-duration-sec": 1,
        "no transcript": 2,
        "transcript without a letter or digit": 4,
    }
    assert report["dropped"] == {}
    printed = capsys.readouterr().err
    assert "left out as asked: 1 longer than --max-duration-sec, 4 transcript without a letter or digit" in printed
    assert "30.02 s, above --max-duration-sec 30" in printed


def test_without_the_options_everything_is_kept(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--output", str(tmp_path / "out"), "--skip-bad"]) == 0
    assert ids(tmp_path / "out") == SAMPLES.keys() - {"blank"}  # a blank text is bad by itself


def test_a_build_that_leaves_nothing_says_why(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--output", str(tmp_path / "out"), "--max-duration-sec", "0.1"]) == 2
    assert "no sample is left" in (printed := capsys.readouterr().err)
    assert "above --max-duration-sec 0.1" in printed
    assert main([*words, "--output", str(tmp_path / "out"), "--max-duration-sec", "-1"]) == 2
    assert "expected seconds above 0" in capsys.readouterr().err
