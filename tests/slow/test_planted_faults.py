"""Faults whose loss falls as any other's: each is flagged by the check that can see it, and a sound run never is.

Four samples that a small model overfits, as the model must speak before it can be judged. The bounds are those of
`generation_check.warn`, and what counts is the `flagged` events of the run itself. A sound run says from which check on
none is raised, S: it speaks. benchmarks/planted_faults.py does the same with 32 samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slow.test_overfit import english_samples, write_config
from tests.support.runs import ROOT, Finished, RunProcess, metrics_lines, start_run, train

ENTRY = str(ROOT / "tests" / "slow" / "planted_faults.py")
MEASURES = ("stop_failure", "invalid_tokens", "special_tokens", "loop", "length_ratio")
BOUNDS = (
    "--generation_check.warn",
    "{stop_failure = 0.02, invalid_tokens = 0.01, special_tokens = 0.01, loop = 0.02, length_ratio = 1.12}",
    *("--generation_check.warn_below", "{length_ratio = 0.88}"),
)
"""What a model that has learned its samples by heart keeps: its measures are 0, and its length ratio is 1."""


@dataclass(frozen=True)
class Scale:
    """How many samples are learned by heart, and in how many steps."""

    num_samples: int
    codes: tuple[int, int]
    """Of a sample, from and to."""
    steps: int
    every: int
    """Steps between generation checks."""
    packs: int
    seq_len: int
    num_prompts: int
    """Of the samples, which each check continues."""


FOUR = Scale(num_samples=4, codes=(30, 45), steps=120, every=20, packs=2, seq_len=128, num_prompts=4)
EVERY = FOUR.every


def trained(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    *overrides: str,
    scale: Scale = FOUR,
    start: Callable[..., RunProcess] = start_run,
) -> Finished:
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("NUM_PROMPTS", str(scale.num_prompts))
    samples = english_samples(scale.num_samples, *scale.codes)
    config = write_config(folder, samples, steps=scale.steps, packs=scale.packs, seq_len=scale.seq_len, lr=4e-3)
    check = (
        *("--generation_check.every_steps", str(scale.every)),
        *("--generation_check.max_codes", str(scale.codes[1] + 15)),
        *("--generation_check.temperature", "0", "--data.num_workers", "0"),
    )
    return train(folder / "run", *check, *BOUNDS, *overrides, config=str(config), entry=ENTRY, start=start)


def checks(folder: Path) -> dict[int, dict[str, float]]:
    """The measures of each generation check by step."""
    events = [record for record in metrics_lines(folder / "run") if record.get("event") == "generation"]
    return {event["step"]: {name: event[f"generation/{name}"] for name in MEASURES} for event in events}


def flags(folder: Path) -> dict[int, str]:
    """What the run itself said of its generation checks, by step; empty where it raised no flag."""
    events = [record for record in metrics_lines(folder / "run") if record.get("event") == "flagged"]
    raised = {event["step"]: event["message"] for event in events if event["what"] == "the generation check"}
    return {step: raised.get(step, "") for step in checks(folder)}


def speaks_from(found: dict[int, str]) -> int | None:
    """S: the check from which on none is flagged; None if the last one is."""
    steps = sorted(found)
    silent = [step for step in steps if not any(found[later] for later in steps if later >= step)]
    return min(silent, default=None)


@pytest.fixture(scope="module")
def first_speaking_step(tmp_path_factory: pytest.TempPathFactory) -> int:
    """S of the sound run."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as monkeypatch:
        finished = trained(folder, monkeypatch, "")
    assert finished.returncode == 0, finished.output[-4000:]
    step = speaks_from(flags(folder))
    assert step is not None, f"the sound run never speaks: {checks(folder)}"
    return step


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_sound_run_is_never_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_speaking_step: int, seed: str
) -> None:
    finished = trained(tmp_path, monkeypatch, "", "--job.seed", seed)
    assert finished.returncode == 0, finished.output[-4000:]
    late = {step: text for step, text in flags(tmp_path).items() if step > first_speaking_step + EVERY}
    assert not any(late.values()), late


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "overrides", "by"),
    [
        ("template", (), "special_tokens"),
        ("stop", (), "stop_failure"),
        ("", ("--optimizer.lr", "4e-2", "--lr_scheduler.end_lr", "2e-3"), ""),
    ],
    ids=["template", "stop", "rate"],
)
def test_a_fault_is_flagged_at_the_latest_two_checks_after_a_sound_run_speaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first_speaking_step: int,
    fault: str,
    overrides: tuple[str, ...],
    by: str,
) -> None:
    finished = trained(tmp_path, monkeypatch, fault, *overrides)
    assert finished.returncode == 0, finished.output[-4000:]
    late = {step: text for step, text in flags(tmp_path).items() if step >= first_speaking_step}
    within = [text for step, text in late.items() if step <= first_speaking_step + 2 * EVERY]
    assert any(within), f"{late}, {checks(tmp_path)}"
    assert all(by in text for text in within), late


@pytest.mark.slow
def test_labels_off_by_one_end_the_run_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = trained(tmp_path, monkeypatch, "labels", "--generation_check.every_steps", "0")
    assert finished.returncode != 0
    assert "labels of the first batch are not the token that follows" in finished.output
    assert not [record for record in metrics_lines(tmp_path / "run") if "event" not in record]


@pytest.mark.slow
def test_a_language_that_is_not_read_is_named_by_the_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "language")
    words = ("--training.target_tokens", "40960", "--metrics.log_every_steps", "10", "--data.num_workers", "0")
    finished = train(tmp_path / "run", *words, config="tests/assets/small.toml", entry=ENTRY)
    assert finished.returncode == 0, finished.output[-4000:]
    (flagged_by,) = (record for record in metrics_lines(tmp_path / "run") if record.get("event") == "flagged")
    assert flagged_by["what"] == "the mixture"
    assert "the data plan has" in flagged_by["message"]
    assert "does not train on the mixture it was given" in finished.output


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1"])
@pytest.mark.parametrize("fault", ["shift", ""])
def test_codes_shifted_by_one_are_flagged_in_the_first_steps_and_a_sound_run_is_not(
    tmp_path: Path, gold: Path, monkeypatch: pytest.MonkeyPatch, fault: str, seed: str
) -> None:
    """The training loss falls the same: only data that is not shifted can tell."""
    monkeypatch.setenv("FAULT", fault)
    words = ("--training.target_tokens", str(1024 * 24), "--data.num_workers", "0", "--checkpoint.enable", "false")
    held_out = ("--data.held_out", json.dumps([str(gold)]), "--validation.every_steps", "24", "--data.seed", seed)
    finished = train(tmp_path / "run", *words, *held_out, config="tests/assets/small.toml", entry=ENTRY)
    assert finished.returncode == 0, finished.output[-4000:]
    lines = metrics_lines(tmp_path / "run")
    trained = [line["loss/kind/code"] for line in lines if "event" not in line and "loss/kind/code" in line]
    assert trained[-1] < trained[0] - 0.1, "it learns"
    flags = [line for line in lines if line.get("event") == "flagged"]
    if not fault:
        assert not flags
        return
    first = flags[0]
    assert first["what"].startswith("the codes of ")
    assert first["step"] <= 12, first
    assert "are shifted by +1 against held-out ones" in first["message"]
