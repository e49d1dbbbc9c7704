"""A save that failed says what it left."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from titan_speech.checkpoint.manager import SpeechCheckpointManager
from titan_speech.checkpoint.saver import SaveJob, SaveResult
from titan_speech.config.schema_operations import CheckpointConfig


@pytest.mark.parametrize("is_left", [False, True])
def test_a_failed_save_says_whether_something_of_it_was_left(
    tmp_path: Path, is_left: bool, caplog: pytest.LogCaptureFixture
) -> None:
    manager = object.__new__(SpeechCheckpointManager)
    manager.folder, manager.settings, manager._num_failed = str(tmp_path), CheckpointConfig(), 0
    job = SaveJob(tmp_path / "step-5", 5, kind="full", reason="test", world_size=1, write_companions=tuple)
    if is_left:
        (tmp_path / "step-5.partial").mkdir()
    with caplog.at_level(logging.ERROR):
        manager._count_failure(SaveResult(job, error="OSError on rank 0: no space"), is_last_chance=False)
    rest = f"is still in {tmp_path}/step-5.partial, and the next start removes it" if is_left else "was removed"
    assert f"What was written of it {rest}; there is no other" in caplog.text
