"""Faults whose loss falls as any other's: each is flagged by the check that can see it, and a sound run never is.

Four samples that a small model overfits, as the model must speak before it can be judged. The sound run says from which
check on a model speaks, S, and what its measures are from there on; a fault is flagged if a measure is outside of that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runs import ROOT, Finished, metrics_lines, train
from tests.slow.test_overfit import english_samples, write_config

ENTRY = str(ROOT / "tests" / "slow" / "planted_faults.py")
MEASURES = ("stop_failure", "invalid_tokens", "special_tokens", "loop", "length_ratio")
MARGIN = 0.02


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


FOUR = Scale(num_samples=4, codes=(30, 45), steps=120, every=20, packs=2, seq_len=128)
EVERY = FOUR.every


def trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str, *overrides: str, scale: Scale = FOUR
) -> Finished:
    monkeypatch.setenv("FAULT", fault)
    samples = english_samples(scale.num_samples, *scale.codes)
    config = write_config(folder, samples, steps=scale.steps, packs=scale.packs, seq_len=scale.seq_len, lr=4e-3)
    check = (
        *("--generation_check.every_steps", str(scale.every)),
        *("--generation_check.max_codes", str(scale.codes[1] + 15)),
        *("--generation_check.temperature", "0", "--data.num_workers", "0"),
    )
    return train(folder / "run", *check, *overrides, config=str(config), entry=ENTRY)


def checks(folder: Path) -> dict[int, dict[str, float]]:
    """The measures of each generation check by step."""
    events = [record for record in metrics_lines(folder / "run") if record.get("event") == "generation"]
    return {event["step"]: {name: event[f"generation/{name}"] for name in MEASURES} for event in events}


def speaks(measures: dict[str, float]) -> bool:
    """Whether a check is that of a model that has learned its samples."""
    is_clean = not any(measures[name] for name in MEASURES[:-1])
    return is_clean and abs(measures["length_ratio"] - 1) < 0.1


def flagged(measures: dict[str, float]) -> list[str]:
    """The measures that are outside of what a speaking model has."""
    limits = {name: MARGIN for name in MEASURES[:-1]}
    found = [name for name, limit in limits.items() if measures[name] > limit]
    return found + (["length_ratio"] if abs(measures["length_ratio"] - 1) > 0.1 + MARGIN else [])


@pytest.fixture(scope="module")
def first_speaking_step(tmp_path_factory: pytest.TempPathFactory) -> int:
    """S: the check of the sound run from which on it speaks."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as monkeypatch:
        finished = trained(folder, monkeypatch, "")
    assert finished.returncode == 0, finished.output[-4000:]
    found = checks(folder)
    spoken = [step for step in found if all(speaks(later) for at, later in found.items() if at >= step)]
    assert spoken, f"the sound run never speaks: {found}"
    return spoken[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_sound_run_is_never_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_speaking_step: int, seed: str
) -> None:
    finished = trained(tmp_path, monkeypatch, "", "--job.seed", seed)
    assert finished.returncode == 0, finished.output[-4000:]
    late = {
        step: flagged(measures) for step, measures in checks(tmp_path).items() if step > first_speaking_step + EVERY
    }
    assert not any(late.values()), late


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "overrides", "by"),
    [
        ("template", (), "special_tokens"),
        ("stop", (), "stop_failure"),
        ("", ("--optimizer.lr", "4e-2", "--lr_scheduler.end_lr", "2e-3"), None),
    ],
    ids=["template", "stop", "rate"],
)
def test_a_fault_is_flagged_at_the_latest_two_checks_after_a_sound_run_speaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first_speaking_step: int,
    fault: str,
    overrides: tuple[str, ...],
    by: str | None,
) -> None:
    finished = trained(tmp_path, monkeypatch, fault, *overrides)
    assert finished.returncode == 0, finished.output[-4000:]
    found = checks(tmp_path)
    late = {step: flagged(found[step]) for step in found if step >= first_speaking_step}
    within = [names for step, names in late.items() if step <= first_speaking_step + 2 * EVERY]
    assert any(within), f"{late}, {found}"
    assert by is None or all(by in names for names in within), late


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
@pytest.mark.parametrize("fault", ["shift", ""])
def test_codes_shifted_by_one_are_flagged_by_the_validation_and_a_sound_run_is_not(
    tmp_path: Path, gold: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The training loss falls the same: only data that is not shifted can tell.

    Measured: before the first step the loss of held-out codes is 11.073, after 30 steps 11.144, after 60 11.049: the
    flag must be seen when it is raised.
    """
    monkeypatch.setenv("FAULT", fault)
    words = ("--training.target_tokens", str(1024 * 60), "--data.num_workers", "0", "--checkpoint.enable", "false")
    held_out = ("--data.held_out", json.dumps([str(gold)]), "--validation.every_steps", "30")
    finished = train(tmp_path / "run", *words, *held_out, config="tests/assets/small.toml", entry=ENTRY)
    assert finished.returncode == 0, finished.output[-4000:]
    lines = metrics_lines(tmp_path / "run")
    trained = [line["loss/kind/code"] for line in lines if "event" not in line and "loss/kind/code" in line]
    assert trained[-1] < trained[0] - 0.3, "it learns"
    flags = [(line["what"], line["step"]) for line in lines if line.get("event") == "flagged"]
    assert flags[:1] == ([("validation gold", 30)] if fault else [])
