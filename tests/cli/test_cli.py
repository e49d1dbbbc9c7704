"""`titan-speech`: every verb explains itself, bad input is one message, and nothing heavy is imported to say so."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from tests.store_samples import write_store, write_tokenizer
from titan_speech.cli.arguments import natural, naturals, positive
from titan_speech.cli.command import Command
from titan_speech.cli.main import COMMANDS, build_parser, main
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.text_tokenizer import TextTokenizer

ROOT = Path(__file__).parents[2]
DEMO = ("--job.config_file", "train_configs/demo.toml")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user starts it."""
    command = [sys.executable, "-m", "titan_speech", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("verb", COMMANDS, ids=lambda verb: verb.prog)
def test_each_verb_has_help_with_an_example_that_parses(verb: Command, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_help_needs_neither_torch_nor_numpy() -> None:
    heavy = "{'torch', 'numpy', 'pyarrow'}"
    code = f"import sys, titan_speech.cli.main as cli; cli.build_parser(); print({heavy} & {{*sys.modules}})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "set()"
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
    assert "stores are not opened: titan-speech data order opens them" in out
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


def test_store_verbs_describe_and_find_a_flipped_bit(
    tmp_path: Path, store_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(Path(store_words[1]).parent / "store", store)
    assert main(["store", "describe", str(store)]) == 0
    assert "prompts.en.speech" in capsys.readouterr().out
    assert main(["store", "verify", str(store)]) == 0
    shard = next(store.glob("wild.hi.speech/*.tokens"))
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    assert main(["store", "verify", str(store)]) == 1
    assert shard.name in capsys.readouterr().out


def test_a_verb_of_a_heavy_room_takes_its_arguments_from_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sample", "--run", "nowhere"])
    assert caught.value.code == 2
    assert "titan-speech sample: error: the following arguments are required: --output" in capsys.readouterr().err
    assert main(["sample", "--run", "nowhere", "--output", "x.wav"]) == 2
    assert capsys.readouterr().err.startswith("titan-speech sample: ")


def test_a_file_to_compare_with_that_is_not_there_is_blamed_by_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", *DEMO, "--world-size", "8", "--against", "nope.toml"])
    assert 'argument --against: found no file "nope.toml"' in capsys.readouterr().err


def test_sigterm_ends_a_verb_and_leaves_nothing_half_written(tmp_path: Path) -> None:
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
