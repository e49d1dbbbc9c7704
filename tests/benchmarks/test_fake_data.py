"""Stand-ins for real data: what a start that ended in the middle leaves does not spoil the next one."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from benchmarks.fake_data import write_stand_ins
from titan_speech.estimate.offline import PUBLISHED_ROWS
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def test_a_tokenizer_that_was_cut_is_written_again(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # of several MB
    try:
        with pytest.raises(Exception, match="too large"):
            write_stand_ins(tmp_path, "llama3", num_samples=20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write_stand_ins(tmp_path, "llama3", num_samples=20)
    assert TextTokenizer.load(tmp_path / "tokenizer").num_base == PUBLISHED_ROWS["llama3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "tokenizer"]
