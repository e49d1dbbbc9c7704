"""Completion offers commands, flags and configuration keys, as a shell's hook asks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def words_after(line: str, tmp_path: Path) -> set[str]:
    """What argcomplete's hook of bash gets for this line."""
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_SHELL": "bash",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_IFS": "\n",
    }
    code = "import sys; sys.argv[0] = 'titan-speech'; from titan_speech.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60)
    return {word.strip() for word in answer.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("titan-speech che", {"checkpoint"}),
        ("titan-speech store ", {"build", "verify", "audit", "held-out", "merge"}),
        ("titan-speech store build --fro", {"--from"}),
        ("titan-speech recipes copy to", {"tour/s1", "tour/sft"}),
        ("titan-speech config check --training.seq", {"--training.seq_len"}),
    ],
)
def test_the_next_words_are_offered(line: str, expected: set[str], tmp_path: Path) -> None:
    assert expected <= words_after(line, tmp_path)
