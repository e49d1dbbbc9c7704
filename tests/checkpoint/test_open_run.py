"""A run folder that cannot be opened is one message."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from titan_speech.checkpoint.open_run import open_checkpoints
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.config.schema import JobConfig, SpeechConfig
from titan_speech.distributed.consensus import StartupConsensus
from titan_speech.errors import ConfigError


def test_a_run_folder_that_cannot_be_written_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    config = SpeechConfig(job=JobConfig(dump_folder=str(tmp_path / "file" / "run")))
    with pytest.raises(ConfigError, match=r"job\.dump_folder = .* cannot be written: .*give a folder this user can"):
        open_checkpoints(config, Provenance("v", "g", "llama3 debug", 1024), StartupConsensus(), ExitStack())
