"""Validation in a run: due steps, a record of each, and training that is bit for bit that of a run without it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.runs import ROOT, SMALL, losses, metrics_lines, train, train_well
from tests.warm import start_warm
from titan_speech.data.validation_set import ValidationSet
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.training.jsonl_log import JsonlLogger
from titan_speech.training.loss import GroupLoss
from titan_speech.training.validation import ValidationResult, has_record, worse_than_untrained

STEPS = ("--training.target_tokens", "3072", "--checkpoint.cadence", "[{every = 2}]")


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out") / "gold"
    make_held_out_set([ROOT / "demo_data"], folder, HeldOutOptions(num_ce=51, num_decode=8, by="sample"))
    return folder


@pytest.fixture(scope="module")
def paired_only(gold: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small run with one source, whose scored samples are few, and the held-out set."""
    path = tmp_path_factory.mktemp("config") / "paired.toml"
    path.write_text(
        f'[job]\nextends = "{ROOT / SMALL}"\n[data]\nheld_out = ["{gold}"]\n'
        '[validation]\nlanguages = ["hi"]\n'
        '[[data.source]]\nname = "tts"\nstore = "demo_data"\ntask = "tts"\nshare = 1.0\n'
    )
    return str(path)


def validations(folder: Path) -> dict[int, dict]:
    return {record["step"]: record for record in metrics_lines(folder) if record.get("event") == "validation"}


def test_validation_before_the_first_step_at_the_interval_and_at_the_end_changes_no_bit_of_training(
    paired_only: str, tmp_path: Path
) -> None:
    def run(name: str, every_steps: str) -> dict[int, dict]:
        words = (*STEPS, "--validation.every_steps", every_steps, "--generation_check.every_steps", every_steps)
        small = ("--generation_check.num_prompts", "3", "--generation_check.max_codes", "10")
        return train_well(tmp_path / name, *words, *small, config=paired_only, start=start_warm)

    plain, validated = run("plain", "0"), run("validated", "2")
    generated = {r["step"]: r for r in metrics_lines(tmp_path / "validated") if r.get("event") == "generation"}
    assert list(generated) == [0, 2, 3]
    for step, record in generated.items():
        samples = json.loads((tmp_path / "validated" / "generation" / f"step-{step}.json").read_text())
        assert len({sample["sample_id"] for sample in samples}) == 3
        assert all(1 <= len(sample["sampled_ids"]) <= 11 for sample in samples)
        failures = [sample["stop_failure"] for sample in samples]
        assert record["generation/stop_failure"] == pytest.approx(sum(failures) / 3)
    assert losses(validated) == losses(plain)
    assert validations(tmp_path / "plain") == {}
    found = validations(tmp_path / "validated")
    assert list(found) == [0, 2, 3]
    for record in found.values():
        total = record["validation/gold/loss"]
        assert record["validation/gold/perplexity"] == pytest.approx(math.exp(total))
        groups = {name: value for name, value in record.items() if name.startswith("validation/gold/tokens/")}
        for what in ("kind", "task", "language", "source"):
            parts = {name: n for name, n in groups.items() if name.startswith(f"validation/gold/tokens/{what}/")}
            assert sum(parts.values()) == record["validation/gold/tokens"]
            mean = sum(n * record[name.replace("tokens", "loss", 1)] for name, n in parts.items()) / sum(parts.values())
            assert mean == pytest.approx(total, rel=1e-9)


def test_a_resumed_run_repeats_a_validation_that_was_cut_off_and_only_that(paired_only: str, tmp_path: Path) -> None:
    words = (
        "--training.target_tokens",
        "2048",
        "--validation.every_steps",
        "2",
        "--checkpoint.cadence",
        "[{every = 2}]",
    )
    train_well(tmp_path, *words, config=paired_only, start=start_warm)
    log = tmp_path / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    (last,) = (line for line in lines if '"event": "validation"' in line and '"step": 2' in line)
    cut = [*lines[: lines.index(last)], last[: len(last) // 2]]
    log.write_text("".join(cut))  # as a kill while the record is written leaves it
    assert list(validations(tmp_path)) == [0]
    for _ in range(2):
        assert train(tmp_path, *words, config=paired_only, start=start_warm).returncode == 0
    steps = [record["step"] for record in metrics_lines(tmp_path) if record.get("event") == "validation"]
    assert steps == [0, 2], "the first resume repeats it, the second does not"
    found, expected = validations(tmp_path)[2], json.loads(last)
    assert found.keys() == expected.keys()
    assert all(found[name] == value for name, value in expected.items() if not name.endswith("/sec"))


def test_a_record_of_another_set_or_step_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    gold = ValidationSet("gold", "a" * 16, (), 0, 0, 0)
    assert not has_record(log, 2, [gold])
    record = {"event": "validation", "step": 2, "set": "gold", "fingerprint": "a" * 16}
    log.write_text(json.dumps(record) + "\n" + json.dumps(record | {"fingerprint": "b" * 16, "step": 4}) + "\n")
    assert has_record(log, 2, [gold])
    assert not has_record(log, 4, [gold])
    assert not has_record(log, 2, [gold, ValidationSet("other", "c" * 16, (), 0, 0, 0)])


def test_a_loss_above_that_of_the_untrained_model_is_told(tmp_path: Path) -> None:
    """What training on codes that mean something else does, whatever its own loss."""
    log = JsonlLogger(tmp_path / "metrics.jsonl")

    def result(step: int, code: float, text: float) -> ValidationResult:
        losses = {"loss/kind/code": GroupLoss(code * 10, 10), "loss/kind/text": GroupLoss(text * 10, 10)}
        return ValidationResult(step, "gold", "abc", losses, 1.0)

    assert worse_than_untrained(result(5, 20.0, 20.0), log._path) == "", "nothing is known of step 0"
    log.event("validation", step=0, **result(0, 11.1, 11.2).metrics())
    log.close()
    assert worse_than_untrained(result(5, 11.1, 3.0), log._path) == ""
    warning = worse_than_untrained(result(5, 12.5, 3.0), log._path)
    assert "validation gold at step 5 is above that of the untrained model: code 12.500 (before: 11.100)" in warning
