"""`titan-speech`: every command has help that imports nothing heavy; bad input is one message."""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from tests.support.store_samples import write_store, write_tokenizer
from titan_speech import cli
from titan_speech.audit.sound import AUTO_CODEC
from titan_speech.cli import main as cli_main
from titan_speech.cli.arguments import natural, naturals, positive
from titan_speech.cli.command import Command
from titan_speech.cli.main import COMMANDS, GROUPS, find_command, main, parse
from titan_speech.cli.store import HELD_OUT_BY
from titan_speech.preflight.config_checks import load_config
from titan_speech.store import held_out_choice
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.tokenization.vocabulary import NUM_CODES

ROOT = Path(__file__).parents[2]
DEMO = ("--job.config_file", "train_configs/demo.toml")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user starts it."""
    command = [sys.executable, "-m", "titan_speech", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--answers", "1", "a whole number of at least 2"),
        ("--stop", "kl=nan", "expected NAME=NUMBER"),
        ("--stop-below", "num_codes=inf", "expected NAME=NUMBER"),
    ],
)
def test_reward_training_refuses_what_it_cannot_compare_before_it_loads_a_model(
    flag: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["align", "grpo", "--model", "m", "--prompts", "p", "--output", "o", flag, value])
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.prog)
def test_each_command_has_help_with_an_example_that_parses(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.full_name().split(), "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert command.summary in text
    assert command.example in text
    program, *words = shlex.split(command.example)
    assert program == "titan-speech"
    found, rest = find_command(words)
    assert found == command
    args = parse(command, rest)
    assert bool(getattr(args, "config_words", [])) == command.takes_config
    if command.takes_config:
        load_config(args.config_words)


def test_an_option_of_several_values_may_be_given_several_times() -> None:
    """argparse's default keeps the last, and the files of the first would be missing without a word."""
    num_options = 0
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        for argument in command.arguments:
            argument.add_to(parser)
        for action in parser._actions:
            if action.option_strings and action.nargs in ("+", "*"):
                assert isinstance(action, argparse._ExtendAction), (command.prog, action.option_strings)
                num_options += 1
    assert num_options > 5
    pack = next(command for command in COMMANDS if command.full_name() == "evaluate pack")
    for _ in "ab":  # the default is not added to
        args = parse(pack, ["--output", "o", "--text", "a.txt", "b.txt", "--text", "c.txt"])
        assert args.text == [Path("a.txt"), Path("b.txt"), Path("c.txt")]


@pytest.mark.parametrize(
    "words",
    [
        "store audit nowhere",
        "store build --from jsonl --input nowhere --output never --tokenizer tokenizer/tiny --name n --licence l",
        "estimate --job.config_file train_configs/demo.toml --world-size 1",
        "data order --job.config_file train_configs/demo.toml",
        "data show --job.config_file train_configs/demo.toml",
        "checkpoint inspect nowhere",
        "checkpoint mark nowhere",
        "store held-out nowhere --output never",
    ],
    ids=lambda words: " ".join(words.split()[:2]),
)
def test_the_first_line_comes_before_the_imports_that_take_seconds(words: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "titan_speech", *words.split()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as running:
        assert running.stderr
        before = list(itertools.takewhile(lambda line: not line.startswith("titan-speech"), running.stderr))
        is_silent = running.poll() is not None and not running.stderr.read()
        running.kill()
    assert len(before) > 100, "the imports were not listed"
    assert not is_silent
    assert not [line for line in before if line.rstrip().endswith((" numpy", " torch"))]


def test_checkpoints_are_listed_verified_and_pinned_without_torch() -> None:
    code = """
import sys
import titan_speech.checkpoint.inspect, titan_speech.checkpoint.retention, titan_speech.checkpoint.upload.transfer
import titan_speech.checkpoint.verify
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_command_of_every_module_is_registered() -> None:
    modules = [
        importlib.import_module(f"titan_speech.cli.{module.name}") for module in pkgutil.iter_modules(cli.__path__)
    ]
    commands = [command for module in modules if module is not cli_main for command in getattr(module, "COMMANDS", ())]
    assert len(commands) > 40
    assert {command.full_name() for command in commands} == {command.full_name() for command in COMMANDS}
    assert {command.group for command in COMMANDS if command.group} == set(GROUPS)


def test_no_help_imports_torch_numpy_or_pyarrow() -> None:
    code = """
import contextlib, io, sys
from titan_speech.cli.main import COMMANDS, GROUPS, main
pages = [[], *([group] for group in GROUPS), *(command.full_name().split() for command in COMMANDS)]
for words in pages:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as text:
        main([*words, "--help"])
    heavy = {"torch", "numpy", "pyarrow", "boto3", "tokenizers"} & {*sys.modules}
    assert "example" in text.getvalue() and not heavy, (words, heavy)
print(len(pages))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(out.stdout) == 1 + len(GROUPS) + len(COMMANDS)


def test_values_in_help_are_those_of_the_modules_it_does_not_import() -> None:
    assert HELD_OUT_BY == held_out_choice.HELD_OUT_BY
    audit = next(command for command in COMMANDS if command.full_name() == "store audit")
    args = parse(audit, ["STORE"])
    assert (args.codec, args.num_codes) == (AUTO_CODEC, NUM_CODES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("plan", "titan-speech estimate"),
        ("store gold", "titan-speech store held-out"),
        ("checkpoint adopt", "titan-speech checkpoint mark"),
    ],
)
def test_an_old_name_is_understood_with_one_note_and_stands_in_no_help(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*old.split(), "--help"])
    out, err = capsys.readouterr()
    assert caught.value.code == 0
    assert out.startswith(f"usage: {new} ")
    assert len(err.splitlines()) == 1
    assert f'"{old}" is now called "{new.removeprefix("titan-speech ")}"' in err
    *group, name = old.split()
    with pytest.raises(SystemExit):
        main([*group, "--help"])
    assert not re.search(rf"^ +{name}\b", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("words", [[], ["stor"], ["store"], ["store", "bild"], ["--", "store", "verify"]])
def test_words_that_name_no_command_are_one_message_with_those_there_are(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "<command>" in error
    assert "ROOM" not in error


def test_a_word_like_no_command_is_answered_with_the_list_and_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["hello"])
    error = capsys.readouterr().err
    assert "did you mean" not in error
    assert "invalid choice: 'hello' (choose from" in error


def test_the_overview_ends_with_a_few_examples_and_groups_with_all_of_theirs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["--help"], ["checkpoint", "--help"]):
        with pytest.raises(SystemExit):
            main(words)
    overview, group = capsys.readouterr().out.split("usage: titan-speech checkpoint ")
    examples = re.findall(r"^  (titan-speech .*)$", overview.partition("\nexamples:\n")[2], re.MULTILINE)
    assert [words.split()[1] for words in examples] == ["recipes", "doctor", "train", "report", "sample"]
    of_group = [command.example for command in COMMANDS if command.group == "checkpoint"]
    assert all(example in group for example in of_group)


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
    assert "padding packs" in out
    assert "stores are not opened: --here opens them" in out
    words = ["config", "check", "--world-size", "3", *DEMO, "--parallelism.tensor_parallel_degree", "2"]
    assert main(words) == 2
    assert "a divisor of the world size 3" in capsys.readouterr().err


def test_check_here_opens_what_a_run_would_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--here", *DEMO]) == 0
    assert "the stores, the tokenizer and the backbone open and fit together" in capsys.readouterr().out
    (tmp_path / "manifest.json").write_text("{}")
    damaged = [word for name in ("speech", "tts", "text") for word in (f"--data.source.{name}.store", str(tmp_path))]
    assert main(["config", "check", *DEMO, *damaged]) == 0
    assert main(["config", "check", "--here", *DEMO, *damaged]) == 2
    assert str(tmp_path / "manifest.json") in capsys.readouterr().err


def test_a_store_is_described_within_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "describe", "demo_data"]) == 0
    tables = capsys.readouterr().out.split("samples by task")[0]
    assert re.search(r"^by language +samples +tokens +transcript tokens +duration$", tables, re.MULTILINE)
    assert max(map(len, tables.splitlines()[8:])) <= 100


def test_config_help_is_reachable_from_a_command_that_takes_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["config", "check", "--config-help"])
    assert caught.value.code == 0
    assert "[[data.source]]" in capsys.readouterr().out


def test_commands_without_a_configuration_refuse_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["store", "verify", "demo_data", "--training.seq_len", "5"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --training.seq_len 5" in capsys.readouterr().err


def test_a_missing_store_is_a_message_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("describe", "verify"):
        assert main(["store", name, str(tmp_path / "nowhere")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"titan-speech store {name}: ")
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
    for bad in ("0", "three"):
        with pytest.raises(ArgumentTypeError, match="at least 1"):
            positive(bad)


@pytest.fixture(scope="module")
def store_words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A configuration over a store written for these tests."""
    folder = tmp_path_factory.mktemp("stores")
    tokenizer = TextTokenizer.load(write_tokenizer(folder / "tokenizer"))
    store = write_store(folder / "store", tokenizer)
    sources = [("paired", "tts", 0.5, "prompts"), ("raw", "speech", 0.3, "wild"), ("text", "text", 0.2, "wiki")]
    tables = [
        f'[[data.source]]\nname = "{name}"\nstore = "{store}"\ntask = "{task}"\nshare = {share}\ndatasets=["{data}"]\n'
        for name, task, share, data in sources
    ]
    training = "[training]\nseq_len = 128\nglobal_batch_tokens = 1_280\ntarget_tokens = 20_000\nlocal_batch_packs = 2\n"
    text = f'[tokenizer]\npath = "{folder / "tokenizer"}"\n{training}{"".join(tables)}'
    (folder / "run.toml").write_text(text, encoding="utf-8")
    return ["--job.config_file", str(folder / "run.toml")]


def test_data_order_digests_the_same_at_any_world_size(
    store_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    digests = set()
    for world_size in ("1", "2", "3"):
        words = ["data", "order", "--start", "7", "--count", "25", "--digest", "--world-size", world_size]
        assert main([*words, *store_words]) == 0
        digests.add(capsys.readouterr().out)
    assert len(digests) == 1
    assert main(["data", "order", "--start", "8", "--count", "25", "--digest", *store_words]) == 0
    assert capsys.readouterr().out not in digests


def test_data_order_prints_one_line_a_slot_for_the_fewest_ranks_that_fit(
    store_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parallel = ["--parallelism.tensor_parallel_degree", "2", "--parallelism.data_parallel_replicate_degree=3"]
    assert main(["data", "order", "--start", "1e6", "--count", "5", *store_words, *parallel]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert "3 data-parallel ranks" in header
    assert [line.split()[0] for line in lines] == [str(10**6 + i) for i in range(5)]


def test_data_show_prints_the_packs_asked_for(store_words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", *store_words, "--slots", "3,1_000"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("slot ")] == ["3", "1000"]
    assert main(["data", "show", *store_words, "--source", "paired"]) == 0
    assert "<|text_start|>" in capsys.readouterr().out
    assert main(["data", "show", *store_words, "--source", "pared"]) == 2
    assert "paired" in capsys.readouterr().err


def test_store_commands_describe_and_find_a_flipped_bit(
    tmp_path: Path, store_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(Path(store_words[1]).parent / "store", store)
    assert main(["store", "describe", str(store)]) == 0
    described = capsys.readouterr().out
    assert "prompts.en.speech" in described
    assert " min, " in described, "seconds of speech are not 0.00 h"
    assert main(["store", "verify", str(store)]) == 0
    shard = next(store.glob("wild.hi.speech/*.tokens"))
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    assert main(["store", "verify", str(store)]) == 1
    assert shard.name in capsys.readouterr().out


def test_generate_without_transformers_names_the_extra_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["generate", "--model", "nowhere", "--text", "Hello.", "--output", "x.wav"]) == 2
    assert "pip install 'titan-speech[hf]'" in capsys.readouterr().err


def test_generate_hides_warnings_of_libraries_that_no_user_can_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = logging.getLogger("torch.utils._pytree")
    monkeypatch.setattr(noisy, "level", logging.WARNING)
    assert main(["generate", "--model", "nowhere", "--text", "Hello.", "--output", "x.wav"]) == 2
    assert not noisy.isEnabledFor(logging.WARNING)


def test_a_missing_argument_is_named_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sample", "--run", "nowhere"])
    assert caught.value.code == 2
    assert "titan-speech sample: error: the following arguments are required: --output" in capsys.readouterr().err
    assert main(["sample", "--run", "nowhere", "--output", "x.wav"]) == 2
    assert capsys.readouterr().err.startswith("titan-speech sample: ")


def test_a_missing_file_to_compare_with_is_reported_by_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["estimate", *DEMO, "--world-size", "8", "--against", "nope.toml"])
    assert 'argument --against: found no file "nope.toml"' in capsys.readouterr().err


def test_sigterm_ends_a_command_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    words = ("store", "audit", "demo_data", "--output", str(page), "--listen", "1000")
    process = subprocess.Popen([sys.executable, "-m", "titan_speech", *words], cwd=ROOT, stderr=subprocess.PIPE)
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert b"Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian", "train_configs/demo.toml"], "train"),
        (["store", "bulid", "--from", "audio"], "store build"),
        (["checkpoints"], "checkpoint"),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_mistyped_command_is_answered_with_the_nearest(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert f"did you mean titan-speech {meant}?" in capsys.readouterr().err
