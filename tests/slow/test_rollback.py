"""A loss spike is rolled back past its data, in a bounded number of times, and the rest of the run stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.runs import figures, losses, start_run, train_well
from titan_speech.config.schema_operations import HealthConfig
from titan_speech.errors import HealthError
from titan_speech.health.rollback import ROLLBACKS_NAME, Rollback, choose

TABLE = HealthConfig(spike_skip_steps=3, max_rollbacks=2)


def test_the_newest_checkpoint_before_the_steps_that_are_passed_over_is_chosen() -> None:
    assert choose(TABLE, 20, [4, 8, 12, 16, 18, 20], 0) == Rollback(spike=20, back_to=16, first=18, last=20)
    assert choose(TABLE, 20, [17], 1) == Rollback(20, 17, 18, 20)
    with pytest.raises(HealthError, match="a full checkpoint before step 18, and no such one is stored"):
        choose(TABLE, 20, [18], 0)
    with pytest.raises(HealthError, match="after 2 rollbacks, the most"):
        choose(TABLE, 20, [16], 2)


@pytest.mark.slow
def test_a_spike_is_rolled_back_by_itself_and_its_data_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        *(
            "--training.target_tokens",
            "10240",
            "--training.global_batch_tokens",
            "512",
            "--lr_scheduler.warmup_ratio",
            "0",
        ),
        *("--training.local_batch_packs", "1", "--checkpoint.cadence.0.every", "3"),
        *("--health.on_spike", "rollback", "--health.spike_window_steps", "10", "--health.spike_skip_steps", "2"),
    )
    monkeypatch.setenv("POISON", "14:1:high")
    process = start_run(
        tmp_path / "spiked",
        *settings,
        world_size=2,
        entry="tests/support/poisoned_train.py",
        launch=("--max-restarts", "2"),
    )
    assert process.wait(900) == 0, (tmp_path / "spiked" / "log.txt").read_text()[-8000:]
    assert json.loads((tmp_path / "spiked" / ROLLBACKS_NAME).read_text()) == [
        {"spike": 14, "back_to": 12, "first": 13, "last": 14}
    ]
    assert figures(tmp_path / "spiked")[20]["skipped_steps"] == 2
    later = figures(tmp_path / "spiked")[15]  # the first line after the two skipped steps counts what all three read
    assert sum(tokens for name, tokens in later.items() if name.startswith("read_tokens/source/")) == 3 * 512
    monkeypatch.delenv("POISON")
    straight = losses(train_well(tmp_path / "straight", *settings, world_size=2))
    spiked = losses(figures(tmp_path / "spiked"))
    assert all(spiked[step] == straight[step] for step in range(1, 13))
    for step in range(15, 21):  # other weights, the same data
        tokens = [{k: v for k, v in run[step].items() if "tokens" in k} for run in (spiked, straight)]
        assert tokens[0] == tokens[1]
        assert spiked[step]["loss"] != straight[step]["loss"]
