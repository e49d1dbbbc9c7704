"""Files of logs: a full disk loses lines, and says nothing of it on the terminal; only files that stay are named."""

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


def test_the_file_of_a_failed_rank_is_named_only_where_it_holds_something(tmp_path: Path) -> None:
    with RankLogs(tmp_path) as logs:
        files = logs.reify({local: {"RANK": str(local)} for local in range(4)})
        for file in (*files.stdouts.values(), *files.stderrs.values()):
            if file:
                Path(file).touch()
        Path(files.stderrs[1]).write_text("in stderr")
        Path(files.stdouts[2]).write_text("in stdout")
        assert logs.last_words(0) == ""
        assert logs.last_words(1) == f"; its output is in {tmp_path / 'rank-1-stderr.log'}"
        assert logs.last_words(2) == f"; its output is in {tmp_path / 'rank-2-stdout.log'}"
        assert logs.last_words(3) == "; it had printed nothing"
