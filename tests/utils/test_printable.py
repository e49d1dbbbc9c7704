"""What is printed holds no credentials and does not speak to the terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from torchtitan.tools.utils import Color

from tests.support.checkpoint_folders import write_checkpoint
from tests.support.runs import ROOT
from tests.support.store_samples import CODEC, speech_codes, write_tokenizer
from titan_speech.checkpoint.commit import MARKER
from titan_speech.cli import store_audit
from titan_speech.cli.main import main
from titan_speech.config.schema import JobConfig, SpeechConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.hf.extended_backbone import _first_process_of_machine
from titan_speech.hf.model_card import model_card
from titan_speech.importers.base import ImportOptions
from titan_speech.importers.build import REPORT_NAME, BuildRequest, build_store
from titan_speech.importers.text_documents import TextDocument
from titan_speech.model.backbones import FLAVORS
from titan_speech.store import derived_cache
from titan_speech.text_preparation.report import DocumentCounts, report_text
from titan_speech.tokenization.vocabulary import Vocabulary
from titan_speech.training.jsonl_log import JsonlLogger
from titan_speech.utils.files import write_atomically
from titan_speech.utils.printable import (
    REMOVED,
    escape_controls,
    make_log_records_printable,
    one_line,
    printable,
    printable_stdout,
    redact,
)
from titan_speech.utils.safe_path import UnsafePathError, open_without_link, relative_path

SECRETS = {
    "https://user:hunter22@minio.local:9000/x": "hunter22",
    "https://tok3nt0k3n@git.example/x.git": "tok3nt0k3n",
    "https://b.blob.example/x?sv=1&sig=abcDEF%2Bxyz&se=2": "abcDEF%2Bxyz",
    "GET /x?token=abcdef123456": "abcdef123456",
    "dsn password=hunter22 host=x": "hunter22",
    "login failed, password: hunter22": "hunter22",
    '{"user": "me", "password": "correct horse"}': "correct horse",
    "{'passwd': 'hunter'}": "hunter",
    "passphrase = hunter-22": "hunter-22",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----": "MIIabc",
    "glpat-abcdefghij0123456789": "abcdefghij0123456789",
    "https://AKIAABCDEFGHIJKLMNOP:hunter22@minio.local:9000": "hunter22",
    "https://key:hun/ter22/x@minio.local:9000": "ter22",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG": "wJalrXUtnFEMI",
    "https://hooks.slack.com/services/T000/B000/XXXXabcd": "XXXXabcd",
    "Invalid endpoint: user:hunter22@host": "hunter22",
    "glrt-abcdefghij0123456789": "abcdefghij0123456789",
    "https://user:hunt@er22@host/x": "er22",
    "Authorization: Bearer abcdefghij0123456789": "abcdefghij0123456789",
    "GOCSPX-abcdefghij0123456789abcd": "abcdefghij0123456789abcd",
    "ghr_abcdefghij0123456789abcd": "abcdefghij0123456789abcd",
    "AIzaSyA0123456789012345678901234567890": "SyA0123456789",
    "ya29.a0AfH6SMBx0123456789": "a0AfH6SMBx",
    "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w": "eyJzdWIiOiIxMjM0NTY3ODkwIn0",
}


@pytest.mark.parametrize("text", SECRETS)
def test_known_shapes_of_secrets_are_removed(text: str) -> None:
    assert SECRETS[text] not in redact(text)
    assert REMOVED in redact(text)


@pytest.mark.parametrize(
    "name", ["-eyJaaaaaaaaaa" * 40_000, "?" + "token" * 100_000, "://a:" * 100_000, "password: aaaa" * 40_000]
)
def test_no_name_makes_the_search_for_secrets_quadratic(name: str) -> None:
    """Half a second of a processor; with repetitions without a bound it takes over 70 s, and the system ends it."""
    searching = "import sys; from titan_speech.utils.printable import redact; name = sys.stdin.read()"
    done = subprocess.run(
        [
            "bash",
            "-c",
            'ulimit -t 12; exec "$@"',
            "bash",
            sys.executable,
            "-c",
            f"{searching}; assert redact(name) == name",
        ],
        cwd=ROOT,
        input=name,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix",
        "0" * 64,
        "https://host:9000/path?versionId=3",
        "mail a@b.org",
        "x_token_count=3",
        "password: found 'x', expected text",
        "the password = that of the store",
        "http://host:9000/a@b",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


def test_control_characters_are_shown_as_escapes_and_indic_joiners_stay() -> None:
    assert escape_controls("a\x1b[2Jb\x07\u202ec\r") == "a\\u001b[2Jb\\u0007\\u202ec\\u000d"
    assert one_line("a\n\tक्\u200dष") == "a\\u000a\\u0009क्\u200dष"
    for text in ("\x7f\x9b\U000e0001\ud800", "\x1b"):
        assert json.loads(escape_controls(json.dumps(text, ensure_ascii=False))) == text
    for text in ("क्\u200dष\n\tx", "শক্তি", "a b"):
        assert escape_controls(text) == text
    assert relative_path("क्\u200dष/x") == "क्\u200dष/x"


def test_log_records_are_printable_and_keep_colors() -> None:
    before = logging.getLogRecordFactory()
    stream = io.StringIO()
    logger = logging.getLogger("printable-test")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        make_log_records_printable()
        make_log_records_printable()
        logger.warning("\x1b[31mred\x1b[0m %s at %s", "id\x1b[2J", "https://u:hunter22@host")
        logger.warning("no arguments %d")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    assert stream.getvalue() == f"\x1b[31mred\x1b[0m id\\u001b[2J at https://{REMOVED}@host\nno arguments %d\n"


def test_the_command_line_prints_no_password_of_an_endpoint(tmp_path: Path) -> None:
    words = [
        "store",
        "pull",
        "s3://bucket/x",
        str(tmp_path / "x"),
        "--endpoint-url",
        "http://user:hunter22@127.0.0.1:9",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "titan_speech", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr
    assert "hunter22" not in done.stdout + done.stderr


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "run.lock").symlink_to(victim)
    with pytest.raises(UnsafePathError, match="symbolic link"):
        open_without_link(tmp_path / "run.lock")
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["page.tmp-PID", "page.tmp", "initial.lock"])
def test_files_with_names_that_can_be_guessed_are_not_written_through_a_link(tmp_path: Path, name: str) -> None:
    victim, output = tmp_path / "victim", tmp_path / "run" / "page"
    victim.write_bytes(b"mine")
    output.parent.mkdir()
    (output.parent / name.replace("PID", str(os.getpid()))).symlink_to(victim)
    if name == "page.tmp":
        store_audit._write(output, ["new"])
    elif name == "initial.lock":
        with pytest.raises(UnsafePathError, match="symbolic link"), _first_process_of_machine(output.parent):
            pass
    else:
        write_atomically(output, "new")
        derived_cache._write(output.with_name("array"), np.zeros(1))
    assert victim.read_bytes() == b"mine"
    assert not output.exists() or output.read_bytes() == b"new"


OLD = ROOT / "tests" / "assets" / "revision_3905444.tar.xz"
HOSTILE = "x\x1b]0;owned\x07\x9b2J\u202e\nall sound"
SHOWN = r"x\u001b]0;owned\u0007\u009b2J\u202e\u000aall sound"
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def test_what_is_printed_to_stdout_is_escaped_and_keeps_colors(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_stdout():
        print("\x1b[32mtrained\x1b[0m", "\x1b[8mhidden\x1b[2J")
        assert sys.stdout.isatty() is False
    assert capsys.readouterr().out == "\x1b[32mtrained\x1b[0m \\u001b[8mhidden\\u001b[2J\n"


@pytest.mark.parametrize("code", ["8", "0;8", "08", ";7", "30", "40", "30;40", "38;5;0", "38;2;0;0;0", "5"])
def test_what_is_printed_cannot_be_hidden_by_a_color(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    with printable_stdout():
        print(f"\x1b[{code}mhidden")
    assert capsys.readouterr().out == f"\\u001b[{code}mhidden\n"


def test_colors_of_torchtitan_stay(capsys: pytest.CaptureFixture[str]) -> None:
    colors = Color()
    shown = "".join(f"{getattr(colors, name)}{name}" for name in ("red", "cyan", "orange", "turquoise", "reset"))
    with printable_stdout():
        print(shown)
    assert capsys.readouterr().out == f"{shown}\n"


def hostile_store(folder: Path) -> Path:
    """A store whose name, licence, codec and ids speak to the terminal."""
    lines = [
        {"sample_id": f"{HOSTILE}{i}", "codes": speech_codes(i).tolist(), "transcript_native": HOSTILE}
        for i in range(4)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options, tokenizer = ImportOptions((folder / "a.jsonl",), "tapes", "en"), write_tokenizer(folder / "tokenizer")
    codec = replace(CODEC, name=HOSTILE)
    request = BuildRequest("jsonl", options, folder / "store", tokenizer, HOSTILE, HOSTILE, codec)
    build_store(request)
    return folder / "store"


def test_results_of_commands_hold_no_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = hostile_store(tmp_path)
    capsys.readouterr()
    assert main(["store", "describe", str(store)]) == 0
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 3
    assert main(["store", "describe", "--json", str(store)]) == 0
    content = capsys.readouterr().out
    assert json.loads(content)["name"] == HOSTILE
    next(store.glob("*/*.tokens")).with_name(f"extra{HOSTILE}").write_bytes(b"")
    assert main(["store", "verify", str(store)]) == 1
    verified = capsys.readouterr().out
    assert f"extra{SHOWN} is not in the manifest" in verified
    run = tmp_path / "run"
    checkpoint = write_checkpoint(run, 10)
    marker = checkpoint / MARKER
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "reason": HOSTILE}))
    assert main(["checkpoint", "list", str(run)]) == 0
    listed = capsys.readouterr().out
    assert SHOWN in listed
    assert not UNPRINTABLE.search(out + content + verified + listed)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_store(tmp_path_factory.mktemp("hostile"))


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints about hostile names: shown, without characters that speak to the terminal, each in the
    middle of a line."""
    capsys.readouterr()
    main([str(word) for word in words])
    text = "".join(capsys.readouterr())
    assert "owned" in text
    assert not UNPRINTABLE.search(text)
    assert not re.search("^all sound", text, re.MULTILINE)
    return text


def test_data_show_and_data_order_print_ids_and_texts_escaped(
    hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(
        f'[tokenizer]\npath = "{hostile.parent / "tokenizer"}"\n'
        "[training]\nseq_len = 256\nglobal_batch_tokens = 1024\ntarget_tokens = 4096\nlocal_batch_packs = 1\n"
        "[optimizer]\nlr = 1e-3\n"
        f'[[data.source]]\nname = "all"\nstore = "{hostile}"\ntask = "tts"\nshare = 1.0\n'
    )
    config = "--job.config_file", tmp_path / "run.toml", "--job.dump_folder", tmp_path / "run"
    shown = printed(capsys, "data", "show", "--slots", "0", *config)
    assert f"/{SHOWN}" in shown
    assert r"<|text_start|> x\x1b]0;owned" in shown
    ordered = printed(capsys, "data", "order", "--start", "0", "--count", "2", "--world-size", "1", *config)
    assert ordered.count("\n") == 4  # the first one, of what is done, is on stderr


@pytest.mark.parametrize(
    ("file", "keys", "command"),
    [
        ("provenance/step-2.json", ("git_revision",), "inspect"),
        ("provenance/step-2.json", ("tokens", 0, "language"), "inspect"),
        ("provenance/step-2.json", ("config",), "inspect"),
        ("step-2/commit.json", ("files", 0, "name"), "verify"),
        ("step-2/commit.json", ("kind",), "list"),
        ("data_phases/33f0d9d852cf95fa.json", ("streams", 0, "reason"), "phases"),
        ("data_phases/33f0d9d852cf95fa.json", ("fingerprint",), "phases"),
    ],
)
def test_records_of_a_checkpoint_are_printed_escaped(
    tmp_path: Path, file: str, keys: tuple[str | int, ...], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(OLD) as archive:
        members = [one for one in archive.getmembers() if one.name.startswith("run") and ".distcp" not in one.name]
        archive.extractall(tmp_path, members, filter="data")
    record = tmp_path / "run" / "checkpoint" / file
    content = json.loads(record.read_text())
    reduce(lambda node, key: node[key], keys[:-1], content)[keys[-1]] = HOSTILE
    record.write_text(json.dumps(content))
    group = "data" if command == "phases" else "checkpoint"
    folder = "run/checkpoint/step-2" if command == "inspect" else "run"
    printed(capsys, group, command, tmp_path / folder)


def test_folders_and_files_are_named_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    (folder / f"{HOSTILE}.jsonl").write_text("[]\n")
    for words in (
        ("store", "describe", folder),
        ("store", "verify", folder),
        ("checkpoint", "list", folder),
        ("checkpoint", "inspect", folder),
        ("data", "phases", folder),
        ("model", "convert", "--from", folder, "--layout", "llasa", "--output", tmp_path / "out"),
    ):
        printed(capsys, *words)
    job = "--input", folder, "--output", tmp_path / "out", "--tokenizer", write_tokenizer(tmp_path / "tokenizer")
    printed(capsys, "text", "prepare", "--from", "text-jsonl", *job, "--licence", "x", "--source", "s")
    build = *job, "--name", "x", "--licence", "x", "--codec-name", "x", "--codec-hash", "0" * 64
    printed(capsys, "store", "build", "--from", "jsonl", *build)


def test_no_name_of_a_file_or_key_begins_a_line_of_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of a message after its first are indented, which a name could imitate."""
    name = "a\n  sample z: all sound"
    (tmp_path / f"{name}.jsonl").write_text("damaged\n")
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    job = "--input", str(tmp_path), "--output", str(tmp_path / "out"), "--tokenizer", tokenizer
    build = *job, "--name", "x", "--licence", "x", "--codec-name", "x", "--codec-hash", "0" * 64
    assert main(["store", "build", "--from", "jsonl", *build]) == 2
    config = tmp_path / "run.toml"
    config.write_text(f"[job]\n{json.dumps(name)} = 1\n")
    assert main(["config", "check", "--job.config_file", str(config)]) == 2
    printed = "".join(capsys.readouterr())
    assert printed.count(r"a\u000a  sample z: all sound") == 2
    assert "\n  sample z" not in printed


def test_a_bad_id_reaches_no_terminal_and_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"sample_id": x, "codes": [1]}) + "\n" for x in (HOSTILE, "b"))
    )
    (tmp_path / "b.jsonl").write_text(json.dumps({"sample_id": HOSTILE, "codes": [70_000]}) + "\n")
    options, tokenizer = ImportOptions((tmp_path,), "tapes", "en"), write_tokenizer(tmp_path / "tokenizer")
    build_store(BuildRequest("jsonl", options, tmp_path / "store", tokenizer, "x", "x", CODEC, skip_bad=True))
    report = (tmp_path / "store" / REPORT_NAME).read_text(encoding="utf-8")
    shown = capsys.readouterr().err
    assert "owned" in report
    assert "owned" in shown
    assert not UNPRINTABLE.search(report + shown)


def test_rejected_documents_are_text_in_the_report(tmp_path: Path) -> None:
    counts = DocumentCounts()
    text = f"{HOSTILE} [x](javascript:1) ![](http://tracker) <img src=x> `code`"
    document = TextDocument(id=HOSTILE, text=text, language="en", source="s")
    counts.add_read(document)
    counts.add_rejected(document, "too_short", HOSTILE)
    report = report_text(counts, {"normalization_version": "1"})
    assert not UNPRINTABLE.search(report)
    assert f"`{SHOWN}`" in report
    assert not re.search(r"(?<!\\)\[x|(?<!\\)\[\]|<img|\nall sound", report)


def test_metrics_hold_no_control_characters(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path / "metrics.jsonl")
    log.event("start", stage=HOSTILE)
    log.close()
    written = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(written)["stage"] == HOSTILE
    assert not UNPRINTABLE.search(written)


def test_a_model_card_shows_what_a_configuration_of_others_says_as_text() -> None:
    name = f"{HOSTILE}\\[x](http://tracker)<img src=x>\n# all sound"
    source = SourceConfig(name=name, store="", task="speech", share=1.0)
    config = SpeechConfig(job=JobConfig(description=name), data=DataConfig(source=(source,)))
    vocabulary = Vocabulary(num_base=4, bos_id=0, eos_id=1)
    card = model_card(config, 1, FLAVORS["llama3"]["debug"], vocabulary, None, f"<s>\n```\n{HOSTILE}", ())
    assert card.count("&#91;x](http://tracker)&lt;img src=x>\\u000a# all sound") == 2
    assert not UNPRINTABLE.search(card)
    assert not re.search(r"(?m)^# all sound|<img|\[x\]", card)
    assert card.count("```") == 3
