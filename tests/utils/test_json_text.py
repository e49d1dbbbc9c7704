"""What is no regular file is refused at once: a pipe in the place of a file would be waited for, for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT

READERS = {
    "a small file": "from titan_speech.utils.json_text import read_small_file as read",
    "a recording": "from titan_speech.codec.wav import read_audio as read",
}


@pytest.mark.parametrize("what", READERS)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, what: str) -> None:
    pipe = tmp_path / "file.wav"
    os.mkfifo(pipe)
    program = f"{READERS[what]}\nfrom pathlib import Path\nimport sys\nread(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(pipe)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "not a regular file" in done.stderr
