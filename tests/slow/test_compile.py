"""Packs have one length, so a compiled run compiles in its first step and never again, also on targets only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import train


@pytest.mark.slow
def test_fine_tuning_on_targets_recompiles_nothing_after_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_LOGS", "recompiles,graph_code")
    finished = train(
        tmp_path,
        *("--compile.enable", "true", "--training.target_tokens", "8192"),
        *("--data.source.tts.train_on", "target", "--data.source.tts.share", "0.98"),
        *("--data.source.speech.share", "0.01", "--data.source.text.share", "0.01"),
    )
    assert finished.returncode == 0, finished.output[-4000:]
    first_step, later_steps = finished.output.split("step 1/8", 1)
    assert "TRACED GRAPH" in first_step
    assert "step 8/8" in later_steps
    assert "TRACED GRAPH" not in later_steps
    assert "Recompiling" not in later_steps
