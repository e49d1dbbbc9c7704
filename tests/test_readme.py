"""CI runs the README's commands, its links lead somewhere, and CONTRIBUTING lists the floors that are checked."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from tests.support.runs import ROOT

README = (ROOT / "README.md").read_text("utf-8")
CI = (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_command_block_is_named_and_run_by_ci() -> None:
    names = re.findall(r"<!-- command: (\S+) -->", README)
    assert len(names) == README.count("```bash") == 2
    for name in names:
        assert f"readme_command.py {name})" in CI


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"`(titan-speech [^`]+|python -m titan_speech[^`]+)`", README)))
)
def test_every_command_in_the_text_is_understood(command: str) -> None:
    """Run on the bundled data, in place of the reader's own."""
    words = command.replace("my.toml", "train_configs/demo.toml").replace("STORE", "demo_data").split()
    start = ["-m", "titan_speech"] if words[0] == "titan-speech" else words[1:3]
    rest = words[1:] if words[0] == "titan-speech" else words[3:]
    rest += ["--help"] if rest[0] == "train" else []  # which is run by CI
    done = subprocess.run([sys.executable, *start, *rest], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_error_about_an_unknown_block_lists_the_known_ones() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/readme_command.py", "nonsense"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "demo, tests" in done.stderr


def test_the_floors_in_contributing_are_those_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"][0]
    listed = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("```")[1].strip().splitlines()
    floors = [re.split(r" {2,}", line)[0].split(", ") for line in listed]
    assert floors == [re.split(r" [:|] ", layer) for layer in contract["layers"]]
