"""The page for people with their own recordings: its commands, run in its order, in a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from tests.runs import ROOT, figures

PAGE = (ROOT / "docs" / "tutorial_voice.md").read_text("utf-8")
COMMANDS = dict(re.findall(r"<!-- command: (\S+) -->\n+```bash\n(.*?)```", PAGE, re.DOTALL))
DATA_STEPS = ("recordings", "build", "describe", "audit", "held-out", "configuration")
PROGRAMS = {"titan-speech": "titan_speech", "torchrun": "torch.distributed.run", "python3": ""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working copy's folder without what the commands make; its programs are this interpreter's."""
    for name in ("demo_data", "tokenizer", "train_configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    for program, module in PROGRAMS.items():
        start = f"-m {module} " if module else ""
        (tmp_path / "bin" / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start}"$@"\n')
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


def run_data_steps(folder: Path, number: int) -> dict[str, str]:
    """What each step said; `number` recordings are made in place of the page's 60."""
    shorter = {
        "recordings": ("--number 60", f"--number {number}"),
        "audit": ("--listen 3", "--listen 1"),
        "held-out": ("--num-ce 6 --num-decode 4", f"--num-ce {number // 10} --num-decode {number // 15}"),
    }
    said = {}
    for step in DATA_STEPS:
        before, after = shorter.get(step, ("", ""))
        assert before in COMMANDS[step]
        said[step] = run(folder, COMMANDS[step].replace(before, after) if before else COMMANDS[step])
    return said


def test_every_command_of_the_page_is_named_and_run() -> None:
    assert PAGE.count("```bash") == len(COMMANDS)
    assert set(COMMANDS) == {*DATA_STEPS, "train", "sample"}


def test_the_steps_from_a_folder_to_a_checked_configuration_run_as_written(folder: Path) -> None:
    said = run_data_steps(folder, 20)
    assert "20 samples" in said["build"]
    assert "within thresholds" in said["audit"]
    page = (folder / "my_audit.html").read_text("utf-8")
    assert page.count("<audio") >= 1
    assert "2 cross-entropy samples" in said["held-out"]
    assert "no problems in" in said["configuration"]
    order = run(folder, "titan-speech data order --job.config_file my_voice.toml --count 2 --digest")
    assert re.search(r"[0-9a-f]{16}", order)


@pytest.mark.slow
def test_the_page_leads_from_recordings_to_a_decoded_sample(folder: Path) -> None:
    """The training is the page's, cut to six steps."""
    run_data_steps(folder, 60)
    run(folder, COMMANDS["train"].rstrip() + " --training.target_tokens 24_576")
    steps = figures(folder / "outputs/my_voice")
    assert steps[max(steps)]["loss"] < steps[min(steps)]["loss"]
    run(folder, COMMANDS["sample"])
    with wave.open(str(folder / "my_sample.wav")) as audio:
        assert audio.getnframes() >= 2 * audio.getframerate()
