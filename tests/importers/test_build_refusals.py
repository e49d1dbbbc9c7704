"""`store build`: all bad input is reported at once, with its place, and nothing of it is built."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.store_samples import CODEC
from tests.support.vectorizer_output import NUM_SAMPLES, Spoken, build_request, write_inworld
from titan_speech.cli.main import main
from titan_speech.errors import DataError
from titan_speech.importers.build import build_store
from titan_speech.store.reader import open_store
from titan_speech.store.verify import verify_store


def edited(source: Path, target: Path, edit: Callable[[list[dict]], object]) -> Path:
    """A copy with other lines in its JSONL."""
    folder = Path(shutil.copytree(source, target))
    file = folder / "train_samples.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    edit(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def segments(lines: list[dict]) -> None:
    for i, line in enumerate(lines):
        line |= {"source_video_id": f"v{i % 2}", "segment_order": i, "start_time": i * 1.0, "end_time": i + 0.5}
    lines[200] |= {"start_time": 3.0, "end_time": 3.5}


def numbered_twice(lines: list[dict]) -> None:
    """Two channels of one moment may share a number, two moments may not."""
    for i, start in ((7, 0.0), (8, 0.0), (9, 4.0)):
        lines[i] |= {"source_video_id": "v", "segment_order": 3, "start_time": start, "end_time": start + 1}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda lines: lines[250].update(id="s3"),
            r"sample 's3': duplicate sample_id in \S+samples.jsonl, row 3 and \S+samples.jsonl, row 250\n",
        ),
        (
            lambda lines: [line.update(id="one") for line in lines],
            r"sample 'one': duplicate .* \(and 298 more samples\)",
        ),
        (lambda lines: [line.update(language="xq") for line in lines[::2]], r"tag 'xq': .* \(and 149 more samples\)"),
        (lambda lines: lines[7].pop("id"), "sample 'train_samples.jsonl:7' of .*: has no 'sample_id' or 'id'"),
        (
            lambda lines: lines[7].update(transcript=" "),
            r"sample 's7' of \S+/vectorized/train_samples.jsonl, row 7: blank native text",
        ),
        (lambda lines: lines[7].pop("transcript"), "sample 's7' of .*, row 7: no native transcript"),
        (
            lambda lines: lines[7].update(transcript="cut \ud83d"),
            r"native has half a character, '.ud83d', at position 4: write",
        ),
        (lambda lines: lines[7].update(speaker_id="\ud83d"), "speaker_id has half a character"),
        (lambda lines: lines[7].update(segment_order=2**31), "segment_order is 2147483648: expected a whole number"),
        (lambda lines: lines[7].update(segment_order=float("inf")), "segment_order is inf: expected a whole number"),
        (lambda lines: lines[7].update(start_time=-1.0), "start_time is -1.0: expected seconds from the beginning"),
        (
            segments,
            r"sample 's200' of \S+, row 200: segment_order 200 of source_video_id 'v0' starts at 3.0 s, before .* 198",
        ),
        (
            numbered_twice,
            r"sample 's9' of \S+, row 9: segment_order 3 of source_video_id 'v' starts at 4.0 s, and at 0.0 s in "
            r"sample 's[78]' of \S+, row [78]: number the segments of a recording in the order of their times",
        ),
        (
            lambda lines: [line.update(language=f"en-{'IN' if n % 2 else 'in'}") for n, line in enumerate(lines)],
            r"parts \S+.en-IN.speech and \S+.en-in.speech differ in case alone",
        ),
    ],
)
def test_bad_samples_of_all_units_are_reported_together_and_nothing_is_built(
    tmp_path: Path,
    vectorized: Path,
    tokenizer_path: Path,
    edit: Callable[[list[dict]], object],
    message: str,
) -> None:
    source = edited(vectorized, tmp_path / "vectorized", edit)
    asked = build_request(source, tmp_path / "store", tokenizer_path, num_workers=2 if "xq" in message else 1)
    with pytest.raises(DataError, match=message):
        build_store(replace(asked, required_transcripts=("native",)))
    assert not (tmp_path / "store").exists()


def test_codes_out_of_range_and_of_no_length_are_named(tmp_path: Path, tokenizer_path: Path) -> None:
    codes = [np.array([1, 2]), np.array([3, 65_536]), np.array([-1]), np.array([], np.int64), np.array([70_000])]
    source = write_inworld(tmp_path / "bad", [Spoken(f"s{i}", some, "x") for i, some in enumerate(codes)])
    place = source / "train_samples.jsonl"
    with pytest.raises(DataError) as error:
        build_store(build_request(source, tmp_path / "store", tokenizer_path))
    assert (
        f"sample 's1' of {place}, row 1: code 65536 at frame 1 is out of range: expected 0..65535 (and 2 more samples)"
        in str(error.value)
    )
    assert f"sample 's3' of {place}, row 3: zero length" in str(error.value)


def test_skip_bad_leaves_them_out_and_counts_them(tmp_path: Path, vectorized: Path, tokenizer_path: Path) -> None:
    source = edited(vectorized, tmp_path / "vectorized", lambda lines: [x.update(language="xq") for x in lines[:9]])
    asked = build_request(source, tmp_path / "store", tokenizer_path)
    with pytest.raises(DataError, match="and 8 more"):
        build_store(asked)
    manifest = build_store(replace(asked, skip_bad=True))
    assert sum(part.num_samples for part in manifest.parts) == NUM_SAMPLES - 9
    report = json.loads((tmp_path / "store/build_report.json").read_text())
    assert report["dropped"]["language"]["count"] == 9
    assert "sample 's0'" in report["dropped"]["language"]["first"]
    assert verify_store(tmp_path / "store").is_sound


def test_skip_bad_reports_lines_that_cannot_be_read_and_why_no_sample_is_left(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", language="en")
    good = path.read_text()
    path.write_text(good + '{oops\n{"sample_id": "x", "codes": [1, 2], "code_len": 3, "language": "en"}\n[]\n{\n')
    words = jsonl_words(tmp_path, tokenizer_path, path)
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "correct these or leave them out with --skip-bad:" in message
    assert f"sample 'a.jsonl:3' of {path}, row 3: not JSON" in message
    assert "(and 1 more sample)" in message
    assert f"sample 'x' of {path}, row 4: code_len is 3, but there are 2 codes" in message
    assert main([*words, "--skip-bad"]) == 0
    printed = capsys.readouterr()
    assert ": 3 samples, 9 tokens" in printed.out
    assert (
        f"left out, and counted in build_report.json:\n  sample 'a.jsonl:3' of {path}, row 3: not JSON" in printed.err
    )
    report = json.loads((tmp_path / "store/build_report.json").read_text())
    assert {kind: found["count"] for kind, found in report["dropped"].items()} == {
        "not JSON": 2,
        "code_len": 1,
        "no JSON object": 1,
    }
    path.write_text("{oops\n")
    shutil.rmtree(tmp_path / "store")
    assert main([*words, "--skip-bad"]) == 2
    assert "no sample is left" in (message := capsys.readouterr().err)
    assert "row 0: not JSON" in message


def test_times_that_are_not_the_length_of_the_codes_are_warned_of_and_counted(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {"exact": 10.0, "rounded": 10.2, "long": 10.4, "milliseconds": 10_000.0}
    path = tmp_path / "a.jsonl"
    lines = [{"sample_id": name, "language": "en", "codes": [1] * 500, "end_time": end} for name, end in ends.items()]
    path.write_text("".join(json.dumps(line | {"start_time": 0.0}) + "\n" for line in lines))
    assert main(jsonl_words(tmp_path, tokenizer_path, path)) == 0
    message = capsys.readouterr().err
    assert "warning: samples whose times do not match the length of their codes: 2; they are in the store" in message
    assert f"sample 'long' of {path}, row 2: 500 codes; its times (10.40 s) make 520 (and 1 more sample)" in message
    report = json.loads((tmp_path / "store/build_report.json").read_text())
    assert report["doubted"]["duration"]["count"] == 2


def test_a_damaged_file_is_named_once(tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a", "language": "en"}\n' * 9)[:-12])
    words = jsonl_words(tmp_path, tokenizer_path, path)
    words[words.index("jsonl")] = "text-jsonl"
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f"\n  {path} breaks off after line" in message
    announcement, _, problem = message.partition("\n")
    assert announcement.startswith("titan-speech store build: reading ")
    assert problem.count(str(path)) == 1


def test_a_corrected_input_is_imported_again_where_it_changed(
    tmp_path: Path, built: Path, vectorized: Path, tokenizer_path: Path
) -> None:
    source = edited(vectorized, tmp_path / "vectorized", lambda lines: lines[5].update(language="xq"))
    asked = build_request(source, tmp_path / "store", tokenizer_path)
    with pytest.raises(DataError, match="'xq'"):
        build_store(asked)
    shutil.copy(vectorized / "train_samples.jsonl", source)
    assert build_store(asked).fingerprint == open_store(built).fingerprint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "inwold"], "unknown format 'inwold'; expected one of"),
        (["--columns", "sample=id"], "names the field 'sample'"),
        (["--columns", "speaker_id"], "expected FIELD=COLUMN"),
        (["--columns", "speaker_id=absent", "--codec-name", "x", "--codec-hash", "y"], "has no column 'absent'"),
        (["--input", "nowhere"], "input nowhere does not exist"),
        (["--tokenizer", "nowhere"], "no tokenizer at nowhere"),
        (["--codec-hash", "x"], "only one of --codec-name and --codec-hash; give both"),
        (["--require-transcript", "nativ"], "expected one of native"),
        (["--shard-mb", "0"], "shard_bytes is 0"),
        ([], "--from inworld holds codes and does not say of which codec: give --codec-name"),
    ],
)
def test_bad_arguments_are_refused_without_a_traceback(
    tmp_path: Path,
    vectorized: Path,
    tokenizer_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = ["store", "build", "--from", "inworld", "--input", str(vectorized), "--output", str(tmp_path / "store")]
    usual += ["--tokenizer", str(tokenizer_path), "--name", "x", "--licence", "CC0-1.0", "--workers", "1"]
    assert main([*usual, *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--workers", "0"], ["--unit-mb", "nan"], ["--seed", "-1"]], ids=str)
def test_numbers_are_checked_as_they_are_read(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    usual = ["--from", "inworld", "--input", "x", "--output", "y", "--tokenizer", "z", "--name", "n", "--licence", "l"]
    with pytest.raises(SystemExit, match="2"):
        main(["store", "build", *usual, *words])
    assert f'argument {words[0]}: found "{words[1]}", expected a' in capsys.readouterr().err


def write_jsonl(path: Path, num_samples: int = 3, **changes: object) -> Path:
    """Samples without a language, unless `changes` says one."""
    lines = [{"sample_id": f"{path.stem}{i}", "codes": [i, 1, 2], **changes} for i in range(num_samples)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def jsonl_words(tmp_path: Path, tokenizer: Path, *inputs: Path) -> list[str]:
    words = ["store", "build", "--from", "jsonl", "--input", *map(str, inputs), "--output", str(tmp_path / "store")]
    words += ["--tokenizer", str(tokenizer), "--name", "x", "--licence", "CC0-1.0", "--workers", "1"]
    return [*words, "--dataset-source", "calls", "--codec-name", CODEC.name, "--codec-hash", CODEC.hash]


def test_the_advice_of_a_refusal_can_be_followed(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = jsonl_words(tmp_path, tokenizer_path, write_jsonl(tmp_path / "a.jsonl"))
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "--language" in message
    assert "imported 0 of 1 unit, refused 1" in message
    assert not (tmp_path / "store.building").exists()
    assert main([*words, "--language", "en"]) == 0


def test_a_refusal_names_the_folder_it_keeps_and_so_do_other_settings(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = write_jsonl(tmp_path / "fine.jsonl", language="en")
    words = jsonl_words(tmp_path, tokenizer_path, write_jsonl(tmp_path / "a.jsonl"), fine)
    assert main(words) == 2
    kept = tmp_path / "store.building"
    assert f"{kept} keeps 1 imported unit without a problem" in capsys.readouterr().err
    assert main([*words, "--language", "en"]) == 2
    assert f"{kept} holds an unfinished build with other settings" in capsys.readouterr().err
    shutil.rmtree(kept)
    assert main([*words, "--language", "en"]) == 0


def test_a_short_codec_hash_is_warned_of(
    tmp_path: Path, tokenizer_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = jsonl_words(tmp_path, tokenizer_path, write_jsonl(tmp_path / "a.jsonl", language="en"))
    assert main([*words, "--codec-hash", "abc123"]) == 0
    assert "warning: --codec-hash is 'abc123'; expected the whole sha256" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "store")
    assert main([*words, "--codec-hash", "ab" * 32]) == 0
    assert "warning" not in capsys.readouterr().err
