"""Faults whose loss falls as any other's: each is flagged by the check that can see it, and a sound run never is.

Four samples that a small model overfits, as the model must speak before it can be judged. The sound run says from which
check on a model speaks, S, and what its measures are from there on; a fault is flagged if a measure is outside of that.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import ROOT, Finished, metrics_lines, train
from tests.slow.test_overfit import english_samples, write_config

ENTRY = str(ROOT / "tests" / "slow" / "planted_faults.py")
STEPS, EVERY = 120, 20
MEASURES = ("stop_failure", "invalid_tokens", "special_tokens", "loop", "length_ratio")
MARGIN = 0.02
CHECK = (
    *("--generation_check.every_steps", str(EVERY), "--generation_check.max_codes", "60"),
    *("--generation_check.temperature", "0", "--data.num_workers", "0"),
)


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str, *overrides: str) -> Finished:
    monkeypatch.setenv("FAULT", fault)
    config = write_config(folder, english_samples(4, 30, 45), steps=STEPS, packs=2, seq_len=128, lr=4e-3)
    return train(folder / "run", *CHECK, *overrides, config=str(config), entry=ENTRY)


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
    assert "the data plan has" in finished.output
    assert "does not train on the mixture it was given" in finished.output
