"""Validation in a run: due steps, a record of each, and training that is bit for bit that of a run without it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.support.runs import NORM_TOLERANCE, ROOT, SMALL, figures, losses, metrics_lines, train, train_well
from tests.support.warm import start_warm
from titan_speech.data.validation_set import ValidationSet
from titan_speech.ledger.span_file import read_spans, spans_file
from titan_speech.training.jsonl_log import JsonlLogger
from titan_speech.training.loss import GroupLoss
from titan_speech.training.sinks.names import METRIC_NAMES, find
from titan_speech.training.validation import ValidationResult, has_record, worse_than_untrained

STEPS = ("--training.target_tokens", "3072", "--checkpoint.cadence", "[{every = 2}]")


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


@pytest.fixture(scope="module")
def both(paired_only: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same run without anything that measures, and with all of it."""
    folder = tmp_path_factory.mktemp("both")
    small = ("--generation_check.num_prompts", "3", "--generation_check.max_codes", "10")
    for name, every_steps in (("plain", "0"), ("measured", "2")):
        every = ("validation.every_steps", "generation_check.every_steps", "metrics.tensor_norms_every_steps")
        words = [word for key in every for word in (f"--{key}", every_steps)]
        train_well(folder / name, *STEPS, *words, *small, config=paired_only, start=start_warm)
    return folder / "plain", folder / "measured"


def test_validation_before_the_first_step_at_the_interval_and_at_the_end_changes_no_bit_of_training(
    both: tuple[Path, Path],
) -> None:
    plain, measured = both
    assert losses(figures(measured)) == losses(figures(plain))
    generated = {r["step"]: r for r in metrics_lines(measured) if r.get("event") == "generation"}
    assert list(generated) == [0, 2, 3]
    for step, record in generated.items():
        samples = json.loads((measured / "generation" / f"step-{step}.json").read_text())
        assert len({sample["sample_id"] for sample in samples}) == 3
        assert all(1 <= len(sample["sampled_ids"]) <= 11 for sample in samples)
        failures = [sample["stop_failure"] for sample in samples]
        assert record["generation/stop_failure"] == pytest.approx(sum(failures) / 3)
    assert validations(plain) == {}
    found = validations(measured)
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


def test_gradients_by_group_add_up_to_the_gradient_norm_and_old_and_new_rows_are_apart(both: tuple[Path, Path]) -> None:
    (norms,) = (record for record in metrics_lines(both[1]) if record.get("event") == "tensor_norms")
    assert norms["step"] == 2
    gradients = [value for name, value in norms.items() if name.startswith("tensors/gradient/")]
    assert math.hypot(*gradients) == pytest.approx(figures(both[1])[2]["grad_norm"], rel=NORM_TOLERANCE)
    for quantity in ("weight", "gradient", "update"):
        groups = {name.partition(f"tensors/{quantity}/")[2] for name in norms if f"/{quantity}/" in name}
        layers = {f"layers/{layer}" for layer in range(4)}
        assert groups == {"embedding/old_rows", "embedding/new_rows", "norm", *layers}, "the head is tied"
    assert {name for name in norms if "activation" in name} == {f"tensors/activation_rms/{layer}" for layer in layers}
    rate = figures(both[1])[2]["lr"]
    for layer in layers:
        assert 0 < norms[f"tensors/update/{layer}"] < 2 * rate * math.sqrt(1e7), (
            "AdamW moves a weight by about the rate"
        )


OF_EVENTS = {"set", "fingerprint", "start_from", "world_size", "how", "what", "message"}
"""Fields of events that are no metrics."""
NOT_HERE = {"mfu", "mfu_of_documents", "num_alloc_retries"}
"""No GPU; with [upload], tests/checkpoint/upload/test_process.py looks at what is emitted."""


def test_every_name_that_a_run_emits_is_documented_and_every_documented_one_is_emitted(both: tuple[Path, Path]) -> None:
    emitted = {name for record in metrics_lines(both[1]) for name in record} - {"event", "step"} - OF_EVENTS
    families = {name: find(name) for name in emitted}
    assert [name for name, family in families.items() if family is None] == []
    seen = {family[0].pattern for family in families.values() if family is not None}
    missing = {metric.pattern for metric in METRIC_NAMES} - seen
    assert missing == NOT_HERE | {
        pattern for pattern in missing if pattern.startswith("upload/") or "preference/" in pattern
    }


def test_the_spans_of_a_run_have_its_steps_and_what_it_did_in_and_between_them(both: tuple[Path, Path]) -> None:
    spans = list(read_spans(spans_file(both[1], "rank-0")))
    steps = {span.step: span for span in spans if span.name == "step"}
    assert list(steps) == [1, 2, 3]
    in_steps = [span for span in spans if span.name in ("fetching_batch", "fwd_bwd", "optim")]
    assert {span.name for span in in_steps} == {"fetching_batch", "fwd_bwd", "optim"}
    for span in in_steps:
        step = steps[span.step]
        assert span.duration_sec is not None
        assert step.duration_sec is not None
        assert (
            step.at_sec - 0.01
            <= span.at_sec
            <= span.at_sec + span.duration_sec
            <= step.at_sec + step.duration_sec + 0.01
        )
    between = [span.name for span in spans if span.name in ("validation", "generation_check")]
    assert between == ["validation", "generation_check"] * 3
    assert {"checkpoint_stall", "checkpoint_write"} <= {span.name for span in spans}


@pytest.mark.slow
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
    assert "losses are above those of the untrained model: code 12.500 (before: 11.100)" in warning
