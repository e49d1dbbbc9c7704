"""What is printed holds no credentials and does not speak to the terminal."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT
from titan_speech.utils.printable import REMOVED, escape_controls, make_log_records_printable, printable, redact
from titan_speech.utils.safe_path import UnsafePathError, open_without_link, relative_path

SECRETS = {
    "https://user:hunter22@minio.local:9000/x": "hunter22",
    "https://tok3nt0k3n@git.example/x.git": "tok3nt0k3n",
    "https://b.blob.example/x?sv=1&sig=abcDEF%2Bxyz&se=2": "abcDEF%2Bxyz",
    "GET /x?token=abcdef123456": "abcdef123456",
    "dsn password=hunter22 host=x": "hunter22",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----": "MIIabc",
    "glpat-abcdefghij0123456789": "abcdefghij0123456789",
    "AIzaSyA0123456789012345678901234567890": "SyA0123456789",
    "ya29.a0AfH6SMBx0123456789": "a0AfH6SMBx",
}


@pytest.mark.parametrize("text", SECRETS)
def test_known_shapes_of_secrets_are_removed(text: str) -> None:
    assert SECRETS[text] not in redact(text)
    assert REMOVED in redact(text)


@pytest.mark.parametrize(
    "text", ["s3://bucket/prefix", "0" * 64, "https://host:9000/path?versionId=3", "mail a@b.org", "x_token_count=3"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


def test_control_characters_are_shown_as_escapes_and_indic_joiners_stay() -> None:
    assert escape_controls("a\x1b[2Jb\x07\u202ec\r") == "a\\x1b[2Jb\\x07\\u202ec\\r"
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
    assert stream.getvalue() == f"\x1b[31mred\x1b[0m id\\x1b[2J at https://{REMOVED}@host\nno arguments %d\n"


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
