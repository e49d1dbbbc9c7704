"""Files of logs: a full disk loses lines, and says nothing of it on the terminal."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from titan_speech.launch.rank_logs import AGENT_LOG, RankLogs


def test_a_full_disk_fills_no_terminal_with_errors_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / AGENT_LOG).symlink_to("/dev/full")
    with RankLogs(tmp_path):
        logging.getLogger("torch.distributed.elastic").warning("a worker has ended")
    assert capsys.readouterr().err == ""
