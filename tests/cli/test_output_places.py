"""Paths and addresses on the command line: a wrong one, or an unreachable server, is refused before any work."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT
from tests.support.s3_server import credentials
from titan_speech.cli.main import main

BUILD = ["build", "--from", "jsonl", "--input", "a.jsonl", "--tokenizer", "t", "--name", "n", "--licence", "CC0-1.0"]


COPY = ["recipes", "copy", "from_inworld", "--output"]
HOLD_OUT = ["store", "held-out", "demo_data", "--num-ce", "60", "--num-decode", "8", "--by", "sample", "--output"]


@pytest.mark.parametrize("words", [COPY, HOLD_OUT], ids=["recipes copy", "store held-out"])
def test_a_file_that_the_system_does_not_let_grow_is_one_message_and_the_command_can_be_repeated(
    tmp_path: Path, words: list[str]
) -> None:
    """As on a full or read-only disk; this limit needs no disk of its own."""
    command = [sys.executable, "-m", "titan_speech", *words, str(tmp_path / "out")]
    limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command]
    failed = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "File too large" in failed.stderr
    assert "ulimit -f" in failed.stderr
    assert "Traceback" not in failed.stderr
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [*BUILD, "--output", "gs://bucket/store"],
        ["merge", "one", "two", "--output", "s3://bucket/store"],
        ["held-out", "one", "--output", "s3://bucket/store"],
        ["migrate", "one", "--tokenizer", "t", "--output", "s3:/bucket/store"],
        ["pull", "s3://bucket/store", "gs://bucket/store"],
    ],
)
def test_an_address_is_refused_where_a_local_folder_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["store", *words])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "expected a local folder" in message
    assert ("s3://bucket/prefix" if words[0] == "build" else "store push FOLDER s3://bucket/prefix") in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["store", *BUILD, "--output", "s3:/bucket/x"],
        ["store", "describe", "s3:/bucket/x"],
        ["store", "verify", "s3a://bucket/x"],
        ["store", "audit", "s3:/bucket/x"],
        ["store", "held-out", "s3:/bucket/x", "--output", "gold"],
        ["store", "merge", "one", "s3:/bucket/x", "--output", "all"],
        ["store", "migrate", "s3:/bucket/x", "--plan"],
        ["store", "push", "one", "s3:/bucket/x"],
        ["store", "pull", "s3:/bucket/x", "one"],
        ["checkpoint", "list", "s3:/bucket/x"],
        ["checkpoint", "push", "one", "s3:/bucket/x"],
        ["checkpoint", "pull", "s3:/bucket/x", "one"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_an_address_that_lost_a_slash_gets_the_right_one_suggested(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "s3://bucket/prefix; did you mean s3://bucket/x?" in capsys.readouterr().err


@pytest.fixture
def unretried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that waits before another attempt: retries would last about a minute."""

    def wait(seconds: float) -> None:
        raise AssertionError(f"waits {seconds:.1f} s before another attempt")

    monkeypatch.setattr("titan_speech.storage.retry.time.sleep", wait)


@pytest.mark.parametrize(
    "words",
    [
        ["store", "describe", "s3://bucket/x"],
        ["store", "verify", "s3://bucket/x"],
        ["store", "audit", "s3://bucket/x"],
        ["store", "held-out", "s3://bucket/x", "--output", "gold"],
        ["store", "merge", "one", "s3://bucket/x", "--output", "all"],
        ["store", "migrate", "s3://bucket/x", "--plan"],
        ["store", "push", "one", "s3://bucket/x"],
        ["store", "pull", "s3://bucket/x", "one"],
        ["checkpoint", "list", "s3://bucket/x"],
        ["checkpoint", "pull", "s3://bucket/x", "one"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_server_that_does_not_run_is_reported_at_once(
    words: list[str],
    tmp_path: Path,
    unretried: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and not listening
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert main([*words, "--endpoint-url", endpoint]) == 2
    message = capsys.readouterr().err
    assert f"{endpoint} cannot be reached for s3://bucket/x: " in message
    assert "Connection refused; check --endpoint-url" in message
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_accepts_no_connection_is_given_up_before_any_retry(
    unretried: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("titan_speech.storage.connect.CONNECT_SEC", 0.3)
    with socket.socket() as silent, socket.socket() as first, socket.socket() as second:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for caller in (first, second):  # nobody takes them, so there is no room for another
            caller.setblocking(False)
            caller.connect_ex(silent.getsockname())
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main(["store", "describe", "s3://bucket/x", "--endpoint-url", endpoint]) == 2
    assert f"{endpoint} cannot be reached for s3://bucket/x: timed out; check" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["store", "push", "s3:/b/x", "s3://bucket/x"], ["store", "build", "--input", "s3://b/x"]]
)
def test_an_address_is_refused_in_place_of_local_data(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    error = capsys.readouterr().err
    assert "expected the local folder" in error or "expected a local file or folder" in error


@pytest.mark.parametrize("words", [["store", "describe"], ["checkpoint", "list"], ["checkpoint", "inspect"]], ids=str)
def test_a_name_that_no_file_can_have_is_one_message(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "a" * 300]) == 2
    message = capsys.readouterr().err
    assert "File name too long" in message
    assert "shorten the name and run the same command again" in message


def test_an_invalid_bucket_name_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "describe", "s3://a/b"]) == 2
    assert (
        '"s3://a/b" names the bucket "a"; expected s3://bucket/prefix, a bucket of 3 to 63' in capsys.readouterr().err
    )
