"""`titan-speech`: every verb explains itself, bad input is one message, and nothing heavy is imported to say so."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from titan_speech.cli import build_parser, main
from titan_speech.config.load import load_config
from titan_speech.verbs import VERBS, Verb, natural, naturals, positive

ROOT = Path(__file__).parent.parent
DEMO = ("--job.config_file", "train_configs/demo.toml")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user starts it."""
    command = [sys.executable, "-m", "titan_speech", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.prog)
def test_each_verb_has_help_with_an_example_that_parses(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*verb.words, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert verb.summary in text
    assert verb.example in text
    program, *words = shlex.split(verb.example)
    assert program == "titan-speech"
    args, rest = build_parser().parse_known_args(words)
    assert args.verb == verb
    assert bool(rest) == (verb.takes_config or verb.is_deferred)
    if verb.takes_config:
        load_config(rest)


def test_help_needs_neither_torch_nor_numpy_and_is_quick() -> None:
    heavy = "{'torch', 'numpy', 'pyarrow'}"
    code = f"import sys, titan_speech.cli as cli; cli.build_parser(); print({heavy} & {{*sys.modules}})"
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "set()"
    assert time.perf_counter() - start < 2  # 0.15 s on an idle machine
    assert "examples:" in run("--help").stdout


def test_a_bad_configuration_is_one_message_and_exit_code_2() -> None:
    done = run("config", "show", *DEMO, "--training.seq_length", "5", "--model.family=lama3")
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "titan-speech config show: 2 problems in the configuration:"
    assert lines[1].startswith("  command line: ")
    assert len(lines) == 3


def test_the_shown_configuration_starts_the_same_run(tmp_path: Path) -> None:
    done = run("config", "show", *DEMO, "--training.seq_len", "1024", "--data.source.tts.max_epochs=2")
    assert (done.returncode, done.stderr) == (0, "")
    shown = tmp_path / "shown.toml"
    shown.write_text(done.stdout, encoding="utf-8")
    again = load_config(["--job.config_file", str(shown)])
    assert again.config == load_config([*DEMO, "--training.seq_len=1024", "--data.source.tts.max_epochs=2"]).config
    assert re.search(r"^seq_len = 1024 +# command line$", done.stdout, re.MULTILINE)


def test_check_prints_the_budget_and_fits_the_degrees_to_the_world(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", *DEMO, "--world-size", "3"]) == 0
    out = capsys.readouterr().out
    assert "no problems in train_configs/demo.toml" in out
    assert "filler packs" in out
    words = ["config", "check", "--world-size", "3", *DEMO, "--parallelism.tensor_parallel_degree", "2"]
    assert main(words) == 2
    assert "a divisor of the world size 3" in capsys.readouterr().err


def test_config_help_is_reachable_from_each_verb_that_takes_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["config", "check", "--config-help"])
    assert caught.value.code == 0
    assert "[[data.source]]" in capsys.readouterr().out


def test_verbs_without_a_configuration_refuse_words_they_do_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["store", "verify", "demo_data", "--training.seq_len", "5"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --training.seq_len 5" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_a_message_not_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("describe", "verify"):
        assert main(["store", verb, str(tmp_path / "nowhere")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"titan-speech store {verb}: ")
        assert "nowhere" in error


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    command = f"{shlex.quote(sys.executable)} -m titan_speech config show {' '.join(DEMO)} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""


def test_numbers_are_read_as_people_write_them() -> None:
    assert [natural(text) for text in ("0", "1_000", "1e9", "1000000000000000000")] == [0, 1000, 10**9, 10**18]
    assert naturals("0,7,1e3") == (0, 7, 1000)
    for bad in ("-1", "1.5", "x", "1e-1", "", "1e400"):
        with pytest.raises(ArgumentTypeError, match="whole number"):
            natural(bad)
    with pytest.raises(ArgumentTypeError, match="at least 1"):
        positive("0")
