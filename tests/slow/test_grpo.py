"""Reward training on a CPU by TRL: a reward rises, a hacked one is stopped, a kill resumes, a stage goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.preference_samples import write_mixed
from tests.support.runs import ROOT, train_well
from titan_speech.align.job_files import read_steps
from titan_speech.exit_codes import EXIT_UNHEALTHY

pytestmark = pytest.mark.slow
CONFIG = "tests/assets/preference.toml"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ends its answers after 6 to 10 codes, exported; next to it the store it learned from."""
    folder = tmp_path_factory.mktemp("base")
    write_mixed(folder / "mixed")
    short = ("--training.seq_len", "128", "--training.global_batch_tokens", "512", "--training.local_batch_packs", "4")
    learned = ("--preference.loss", "none", "--data.source.0.task", "tts", "--optimizer.lr", "3e-3")
    words = (*short, *learned, "--data.source.0.store", str(folder / "mixed"), "--training.target_tokens", "46080")
    train_well(folder / "sft", *words, config=CONFIG)
    run("model", "export", "--checkpoint", str(folder / "sft"), "--output", str(folder / "model"), "--no-check")
    return folder / "model"


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "titan_speech", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def grpo_words(base: Path, output: Path, *more: str) -> list[str]:
    words = ["align", "grpo", "--model", str(base), "--prompts", str(base.parent / "mixed"), "--output", str(output)]
    return [*words, "--prompts-per-step", "2", "--max-sec", "0.3", *more]


def test_a_verifiable_reward_rises_and_a_stage_goes_on_from_the_model(base: Path, tmp_path: Path) -> None:
    """Stop after four codes: the base ends after eight on average. At this rate it is enough for few steps; left alone
    for twice as many the policy collapses, which is what bounds are for."""
    more = ("--steps", "16", "--reward", "num_codes@4=-1", "--lr", "3e-4", "--beta", "0.01")
    print(run(*grpo_words(base, tmp_path / "grpo", *more)))
    record = json.loads((tmp_path / "grpo" / "grpo.json").read_text())
    rewards = [step["reward"] for step in record["steps"]]
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    print(f"reward {first:.2f} in the first five steps, {last:.2f} in the last five")
    assert len(rewards) == 16
    assert last > first + 1
    assert record["weights"] == json.loads((base / "titan_speech.json").read_text())["weights"]
    on = ("--model.initial", str(tmp_path / "grpo"), "--model.flavor", "initial")
    on += ("--tokenizer.path", str(tmp_path / "grpo"), "--preference.loss", "none", "--data.source.0.task", "tts")
    train_well(
        tmp_path / "next",
        *on,
        *("--data.source.0.store", str(base.parent / "mixed"), "--training.target_tokens", "2048"),
        config=CONFIG,
    )
    provenance = next((tmp_path / "next" / "checkpoint" / "provenance").glob("step-2*")).read_text()
    assert "16 steps of GRPO on step" in provenance


def test_a_hacked_reward_is_stopped_within_ten_steps(base: Path, tmp_path: Path) -> None:
    """The reward likes whatever is short, as an error rate likes fast speech; the bound on the length sees it."""
    more = ("--steps", "30", "--reward", "num_codes=-1", "--lr", "3e-4", "--beta", "0.01", "--save-every", "1")
    words = grpo_words(base, tmp_path / "grpo", *more, "--stop-below", "num_codes=7.2")
    done = subprocess.run(
        [sys.executable, "-m", "titan_speech", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_UNHEALTHY
    found = read_steps(tmp_path / "grpo.work")
    print(f"stopped at step {len(found)}: {found[-1]['num_codes']:.2f} codes")
    assert len(found) <= 10
    assert "left its bounds: num_codes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "grpo").exists()
    assert not (tmp_path / "grpo.work" / f"checkpoint-{len(found)}").exists()
    assert (
        f"The last checkpoint within them is {tmp_path / 'grpo.work' / f'checkpoint-{len(found) - 2}'}" in done.stderr
    )


def test_a_breach_lowers_the_rate_and_training_goes_on_from_within_the_bounds(base: Path, tmp_path: Path) -> None:
    """The same hack; each breach halves the rate, and what is finished in the end kept its bounds to the last step."""
    more = ("--steps", "8", "--reward", "num_codes=-1", "--lr", "3e-4", "--beta", "0.01", "--save-every", "1")
    bounds = ("--stop-below", "num_codes=7", "--max-breaches", "8")
    run(*grpo_words(base, tmp_path / "grpo", *more, *bounds))
    record = json.loads((tmp_path / "grpo" / "grpo.json").read_text())
    print([(one["step"], one["back_to"], one["lr"], one["breach"]) for one in record["breaches"]])
    assert len(record["breaches"]) >= 1
    assert record["breaches"][0]["lr"] == pytest.approx(1.5e-4)
    assert record["breaches"][0]["back_to"] <= record["breaches"][0]["step"] - 2
    assert [step["step"] for step in record["steps"]] == list(range(1, 9))
    assert all(step["num_codes"] >= 7 for step in record["steps"])
    assert record["steps"][-1]["lr"] == pytest.approx(record["breaches"][-1]["lr"])
    assert record["parity"]["apart"]["generator"]["greatest"] < 1e-4
    run("report", str(tmp_path / "grpo.work"))
    html = (tmp_path / "grpo.work" / "report.html").read_text()
    assert "where a bound was left" in html
    assert "Answers of grpo.work while it trained" in html


def test_a_killed_job_continues(base: Path, tmp_path: Path) -> None:
    words = grpo_words(base, tmp_path / "grpo", "--steps", "6", "--reward", "num_codes@4=-1", "--save-every", "2")
    process = subprocess.Popen([sys.executable, "-m", "titan_speech", *words], cwd=ROOT, start_new_session=True)
    try:
        while (
            not (tmp_path / "grpo.work" / "checkpoint-2" / "trainer_state.json").exists()
            or len(read_steps(tmp_path / "grpo.work")) < 3
        ):
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (tmp_path / "grpo.work" / "checkpoint-4").mkdir(exist_ok=True)  # as a kill in the middle of a save leaves it
    (tmp_path / "grpo.work" / "checkpoint-4" / "trainer_state.json").unlink(missing_ok=True)
    run(*words)
    record = json.loads((tmp_path / "grpo" / "grpo.json").read_text())
    assert [step["step"] for step in record["steps"]] == [1, 2, 3, 4, 5, 6]
