"""The tutorials: the commands of each page, run in order, in a folder of their own with what a reader has copied."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from tests.support.runs import ROOT, figures

PROGRAMS = {"titan-speech": "-m titan_speech", "torchrun": "-m torch.distributed.run", "python3": ""}
VOICE = ("pretrained", "recordings", "build", "describe", "audit", "held-out", "check", "train", "sample")
LANGUAGES = ("corpus", "speech", "text", "merge", "held-out", "order", "estimate", "train", "history")
MIGRATION = ("migrate", "train")
STEPS = {"tutorial_voice.md": VOICE, "tutorial_languages.md": LANGUAGES, "comparison.md": MIGRATION}
"""Each page with the names of its commands, in the order in which they are run."""


def commands(page: str) -> dict[str, str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return dict(re.findall(r"<!-- command: (\S+) -->\n+```bash\n(.*?)```", text, re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what `titan-speech recipes copy` writes; its programs are this interpreter's."""
    for name in ("demo_data", "tokenizer", "train_configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    for program, start in PROGRAMS.items():
        (tmp_path / "bin" / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n')
        (tmp_path / "bin" / program).chmod(0o755)
    return tmp_path


def run(folder: Path, command: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def replaced(command: str, before: str, after: str) -> str:
    """The command with one word of the page changed, which must be there."""
    assert before in command
    return command.replace(before, after)


@pytest.mark.parametrize("page", STEPS)
def test_every_command_of_a_tutorial_is_named_and_run(page: str) -> None:
    assert tuple(commands(page)) == STEPS[page]


@pytest.mark.slow
def test_the_voice_tutorial_runs_as_written_up_to_the_held_out_set(folder: Path) -> None:
    """With 20 recordings in place of 60, and the demo's tokenizer, which the pretrained model would have."""
    page = commands("tutorial_voice.md")
    (folder / "models").mkdir()
    (folder / "models/pretrained").symlink_to(ROOT / "tokenizer/tiny")
    run(folder, replaced(page["recordings"], "--number 60", "--number 20"))
    assert "20 samples" in run(folder, page["build"])
    run(folder, page["describe"])
    assert "within thresholds" in run(folder, replaced(page["audit"], "--listen 3", "--listen 1"))
    assert (folder / "my_audit.html").read_text("utf-8").count("<audio") >= 1
    said = run(folder, replaced(page["held-out"], "--num-ce 6 --num-decode 4", "--num-ce 2 --num-decode 1"))
    assert "2 cross-entropy samples" in said


@pytest.mark.slow
def test_the_voice_tutorial_leads_from_a_pretrained_model_and_recordings_to_a_sample(folder: Path) -> None:
    """The pretraining is the demo's, cut to fifteen steps."""
    page = commands("tutorial_voice.md")
    page["pretrained"] = replaced(page["pretrained"], "demo.toml\n", "demo.toml --training.target_tokens 61_440\n")
    said = {step: run(folder, page[step]) for step in VOICE}
    assert "no problems in" in said["check"]
    steps = figures(folder / "outputs/my_voice")
    assert steps[min(steps)]["loss"] < 10.9, "it did not start from the pretrained weights"
    assert steps[max(steps)]["loss"] < steps[min(steps)]["loss"]
    with wave.open(str(folder / "my_sample.wav")) as audio:
        assert audio.getnframes() >= 2 * audio.getframerate()


@pytest.mark.slow
def test_the_languages_tutorial_leads_from_raw_data_to_a_run_resumed_on_two_processes(folder: Path) -> None:
    page = commands("tutorial_languages.md")
    said = {step: run(folder, page[step]) for step in LANGUAGES}
    assert "no problems in" in said["order"]
    steps = figures(folder / "outputs/two_languages")
    assert max(steps) == 16
    assert steps[max(steps)]["loss"] < steps[min(steps)]["loss"]
    shares = steps[max(steps)]
    assert {"loss/language/en", "loss/language/hi"} <= set(shares)


@pytest.mark.slow
def test_the_migration_leads_from_a_vectorized_folder_to_a_run(folder: Path) -> None:
    page = commands("comparison.md")
    for step in MIGRATION:
        run(folder, page[step])
    steps = figures(folder / "outputs/migrated")
    assert steps[max(steps)]["loss"] < steps[min(steps)]["loss"]
