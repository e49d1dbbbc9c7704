"""The whole examination of a recipe, with its small run, as a person would start it."""

from __future__ import annotations

import json

import pytest

from tests.support.runs import ROOT
from titan_speech.cli.main import main


@pytest.mark.slow
def test_the_demo_is_examined_within_its_time_and_the_debug_model_overfits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(ROOT / "train_configs" / "demo.toml"), "--json", "--minutes", "30"]) == 0
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    verdicts = {name: one["verdict"] for name, one in found.items()}
    assert verdicts == {
        "configuration": "pass",
        "stores": "warn",
        "audit": "pass",
        "estimate": "pass",
        "overfit": "pass",
        "save and resume": "pass",
        "generation": "pass",
        "throughput": "pass",
    }
    assert sum(one["sec"] for one in found.values()) < 30 * 60
