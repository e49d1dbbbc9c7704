"""`--output` of the verbs that write a folder: an address of object storage is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_speech.cli import main

BUILD = ["build", "--from", "jsonl", "--input", "a.jsonl", "--tokenizer", "t", "--name", "n", "--licence", "CC0-1.0"]


@pytest.mark.parametrize(
    "words",
    [
        [*BUILD, "--output", "gs://bucket/store"],
        ["merge", "one", "two", "--output", "s3://bucket/store"],
        ["gold", "one", "--output", "s3://bucket/store"],
        ["migrate", "one", "--tokenizer", "t", "--output", "s3:/bucket/store"],
        ["pull", "s3://bucket/store", "gs://bucket/store"],
    ],
)
def test_an_address_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["store", *words])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "expected a folder of this machine" in message
    assert ("s3://bucket/prefix" if words[0] == "build" else "store push FOLDER s3://bucket/prefix") in message
    assert list(tmp_path.iterdir()) == []
