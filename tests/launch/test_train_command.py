"""`titan-speech train` as a user starts it: refusals before any process, Ctrl-C, and the command that resumes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import ROOT, SMALL, figures, kill, losses
from titan_speech.checkpoint.commit import committed_steps
from titan_speech.cli.main import find_command, parse
from titan_speech.preflight.config_checks import load_config

STEPS = ("--training.target_tokens", "4096", "--training.global_batch_tokens", "512")
SETTINGS = (*STEPS, "--training.local_batch_packs", "1", "--checkpoint.cadence.0.every", "100")
MANY_STEPS = (*SETTINGS, "--training.target_tokens", "512_000", "--lr_scheduler.decay", "constant")


def start(
    folder: Path, *words: str, command: tuple[str, ...] = ("-m", "titan_speech", "train", SMALL)
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command, "--job.dump_folder", str(folder / "run"), *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--training.seq_length", "128"), "command line: training.seq_length: found an unknown key"),
        (("--parallelism.tensor_parallel_degree", "3"), "expected a divisor of the world size 2"),
        (("--data.source.tts.store", "nowhere"), 'data.source.1.store: found no folder "nowhere"'),
        (("--data.source.tts.datasets", '["nope"]'), "source tts: datasets nope not in store demo_data"),
        (("--model.initial", "docs", "--model.flavor", "initial"), "docs is not a Hugging Face model folder"),
        (("--job.dump_folder", "README.md"), "README.md"),
        (("--nnodes", "2"), "found --nnodes 2 without --rdzv-endpoint"),
        (("--generation_check.warn", "{stops = 0.1}"), "found 'stops', expected one of stop_failure"),
        (("--generation_check.voice", "nobody", "--generation_check.codec", "embedded"), "found no folder 'nobody'"),
    ],
)
def test_a_mistake_is_one_message_before_torch_is_imported(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    process = start(tmp_path, "--nproc", "2", *words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in errors
    assert "Traceback" not in errors
    assert "starting torch" not in errors
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_any_rank_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stderr
    for line in process.stderr:
        if "starting torch" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []


def test_overrides_and_what_a_scheduler_sets_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NNODES", "2:4"), ("NPROC_PER_NODE", "8"), ("RDZV_ENDPOINT", "h:1"), ("MAX_RESTARTS", "100")):
        monkeypatch.setenv(f"PET_{name}", value)
    command, words = find_command(["train", SMALL, "--training.seq_len=128", "--compile.enable", "--nproc", "4"])
    args = parse(command, words)
    assert (args.nnodes, args.nproc, args.rdzv_endpoint, args.max_restarts) == ((2, 4), 4, "h:1", 100)
    config = load_config(args.config_words).config
    assert (config.training.seq_len, config.compile.enable) == (128, True)


def interrupted(process: subprocess.Popen[str], folder: Path) -> str:
    """What a run prints that gets Ctrl-C in the middle of its third step, or a later one."""
    try:
        while 2 not in figures(folder / "run"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=120)[1]
    finally:
        kill(process)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A run that only its user may read, stopped by Ctrl-C: its parent folder, exit code, and what it printed."""
    folder = tmp_path_factory.mktemp("stopped")
    process = start(folder, "--nproc", "2", "--job.umask", "077", *MANY_STEPS)
    errors = interrupted(process, folder)
    assert process.returncode is not None
    return folder, process.returncode, errors


def test_ctrl_c_saves_and_the_last_line_is_a_command_that_resumes(stopped: tuple[Path, int, str]) -> None:
    folder, code, errors = stopped
    assert code == 75
    assert "Traceback" not in errors
    [step] = committed_steps(folder / "run" / "checkpoint")
    last = errors.splitlines()[-1]
    assert f"stopped after step {step} of 1000 on request; {folder}/run/checkpoint/step-{step} is complete" in last
    program, *words = shlex.split(last.split("To resume: ")[1])
    assert program == "titan-speech"
    command, words = find_command(words)
    args = parse(command, words)
    config = load_config(args.config_words).config
    assert (args.nproc, config.job.dump_folder) == (2, str(folder / "run"))
    assert config.training.target_tokens == 512_000


def test_nothing_of_a_run_has_a_permission_that_its_umask_takes(stopped: tuple[Path, int, str]) -> None:
    written = [stopped[0] / "run", *(stopped[0] / "run").rglob("*")]
    assert {"logs", "checkpoint", "metrics.jsonl", "config.toml"} <= {path.name for path in written}
    assert [path for path in written if path.stat().st_mode & 0o077] == []


@pytest.mark.slow
def test_a_run_that_ctrl_c_stopped_resumes_to_the_last_bit(tmp_path: Path) -> None:
    for folder in (tmp_path / "stopped", tmp_path / "whole"):
        folder.mkdir()
    errors = interrupted(start(tmp_path / "stopped", "--nproc", "2", *SETTINGS), tmp_path / "stopped")
    assert "To resume: " in errors
    for folder in (tmp_path / "stopped", tmp_path / "whole"):
        process = start(folder, "--nproc", "2", *SETTINGS)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    assert losses(figures(tmp_path / "stopped" / "run")) == losses(figures(tmp_path / "whole" / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "codes"),
    [
        (("-m", "titan_speech.train", "--job.config_file", SMALL), (75,)),
        (
            (
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                "2",
                "-m",
                "titan_speech.train",
                "--job.config_file",
                SMALL,
            ),
            (1,),
        ),
    ],
    ids=["alone", "torchrun"],
)
def test_ctrl_c_saves_without_the_launcher_too(
    tmp_path: Path, command: tuple[str, ...], codes: tuple[int, ...]
) -> None:
    process = start(tmp_path, *MANY_STEPS, command=command)
    errors = interrupted(process, tmp_path)
    assert process.returncode in codes
    assert "Traceback" not in errors.split("To resume: ")[0]  # torchrun's own comes after
    assert "To resume: titan-speech train" in errors
    assert len(committed_steps(tmp_path / "run" / "checkpoint")) == 1


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "--nproc", "2", *MANY_STEPS)
    try:
        while 2 not in figures(tmp_path / "run"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.6)
        errors = process.communicate(timeout=60)[1]
    finally:
        kill(process)
    assert process.returncode in (75, 130)  # 75: the save was faster
    assert "Traceback" not in errors
    if process.returncode == 130:
        assert "exiting at once, without saving; no checkpoint was saved yet" in errors
        assert committed_steps(tmp_path / "run" / "checkpoint") == []
