"""What is measured costs no step a wait: neither for the device nor for other ranks, but at the steps that log it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.runs import ROOT, free_port, train
from tests.support.warm import start_warm
from tests.support.webhook_receiver import receiver

ENTRY = str(ROOT / "tests" / "support" / "counted_train.py")
SHORT = ("--training.target_tokens", str(5 * 1024), "--metrics.log_every_steps", "3", "--checkpoint.enable", "false")
NOTHING = ("--profiler.spans", "false")


def counts(folder: Path, *words: str) -> dict[int, dict[str, int]]:
    finished = train(folder, *SHORT, *words, entry=ENTRY, start=start_warm)
    assert finished.returncode == 0, finished.output[-4000:]
    return {int(step): found for step, found in json.loads((folder / "counts.json").read_text()).items()}


@pytest.mark.slow
def test_no_scalar_is_read_and_no_collective_is_added_in_steps_that_do_not_log(
    gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = counts(tmp_path / "off", *NOTHING)
    with receiver() as received:
        monkeypatch.setenv("TITAN_SPEECH_WEBHOOK", received.url)
        on = counts(
            tmp_path / "on",
            *("--metrics.tensorboard", "true", "--metrics.prometheus", f"127.0.0.1:{free_port()}"),
            *("--data.held_out", json.dumps([str(gold)]), "--validation.every_steps", "0"),
            *("--generation_check.every_steps", "100", "--generation_check.max_codes", "8"),
            *("--generation_check.num_prompts", "2", "--generation_check.warn", "{invalid_tokens = 0.0}"),
            *("--metrics.tensor_norms_at_steps", "[4]"),
        )
    assert len(received.texts) >= 2, "flagged and ended"
    assert off[1]["allreduce_"] >= 1, "collectives are counted"
    assert off[3]["tolist"] > off[2].get("tolist", 0), "a log step reads numbers"
    for step in (1, 2, 3):
        assert on[step] == off[step], f"step {step}"
    added = {name: on[4].get(name, 0) - off[4].get(name, 0) for name in {*on[4], *off[4]}}
    assert {name: number for name, number in added.items() if number} == {"allreduce_": 1, "cpu": 1, "tolist": 2}
