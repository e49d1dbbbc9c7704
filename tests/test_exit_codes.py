"""Exit codes and last words of a run say what is so."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.runs import ROOT, SMALL
from titan_speech import train
from titan_speech.cli import main
from titan_speech.errors import DataError, HealthError
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_UNHEALTHY


@pytest.mark.parametrize(
    ("error", "has_trained", "code"),
    [
        (DataError, False, EXIT_BAD_INPUT),
        (DataError, True, EXIT_UNHEALTHY),
        (HealthError, False, EXIT_UNHEALTHY),  # a generation check that a resumed run repeats
    ],
)
def test_bad_input_found_after_the_first_step_has_another_code_than_before_it(
    error: type[Exception],
    has_trained: bool,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def prepare(*arguments: object) -> SimpleNamespace:
        return SimpleNamespace(has_trained=has_trained)

    def run(trainer: SimpleNamespace) -> None:
        raise error("shard 3 is damaged")

    monkeypatch.setattr(train, "set_single_process_defaults", lambda: None)
    monkeypatch.setattr(train, "load", lambda words: None)
    monkeypatch.setattr("titan_speech.prepare_run.prepare", prepare)
    monkeypatch.setattr(train, "run", run)
    assert train.main([]) == code
    assert capsys.readouterr().err == "titan_speech: shard 3 is damaged\n"


def test_a_command_that_stops_itself_has_the_code_of_a_run_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def left_its_bounds(args: object) -> int:
        raise HealthError("step 5 left its bounds")

    words = ["align", "grpo", "--model", "m", "--prompts", "p", "--output", "o"]
    command, _ = main.find_command(words)
    monkeypatch.setattr(main, "find_command", lambda _: (replace(command, run=left_its_bounds), words[2:]))
    assert main.main(words) == EXIT_UNHEALTHY


@pytest.mark.parametrize("words", [("titan_speech.train", "--job.config_file"), ("titan_speech", "train")], ids=str)
def test_too_few_open_files_are_one_message_before_anything_is_written(tmp_path: Path, words: tuple[str, ...]) -> None:
    words = (sys.executable, "-m", *words, SMALL, "--job.dump_folder", str(tmp_path / "run"))
    limited = ["bash", "-c", 'ulimit -n 24; exec "$@"', "bash", *words]
    finished = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == EXIT_BAD_INPUT
    assert ": this process may open 24 files at once (ulimit -Hn), expected at" in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("code", [0, 75])
def test_a_rank_leaves_with_its_code_when_everything_is_written(code: int) -> None:
    program = f"""
import atexit, sys
from titan_speech.train import leave
class Kept:
    def __del__(self):
        print("taken apart")
kept = Kept()
atexit.register(print, "last words")
print("not flushed yet", end=", ")
leave({code})
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "not flushed yet, last words\n", "")
