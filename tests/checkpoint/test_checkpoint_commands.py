"""`titan-speech checkpoint` on folders of checkpoints: what is said of absent, unpinned and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.checkpoint_folders import write_checkpoint
from titan_speech.checkpoint.commit import MARKER
from titan_speech.checkpoint.retention import pinned_steps
from titan_speech.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (10, 20):
        write_checkpoint(tmp_path, step)
    return tmp_path


@pytest.mark.parametrize("verb", ["inspect", "verify", "diff"])
def test_of_an_absent_step_the_steps_there_are_told(
    folder: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["checkpoint", verb, str(folder / "step-15")]
    assert main([*words, str(folder / "step-10")] if verb == "diff" else words) == 2
    assert f"no complete checkpoint of step 15 in {folder}; there are the steps 10, 20" in capsys.readouterr().err


def test_unpinning_a_step_that_is_not_pinned_changes_nothing_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "pin", str(folder), "10"]) == 0
    assert main(["checkpoint", "unpin", str(folder), "20"]) == 2
    assert f"step 20 in {folder} is not pinned, so nothing was changed; pinned: 10" in capsys.readouterr().err
    assert pinned_steps(folder) == {10}
    assert main(["checkpoint", "unpin", str(folder), "10"]) == 0
    assert "is no longer pinned" in capsys.readouterr().out
    assert main(["checkpoint", "unpin", str(folder), "10"]) == 2
    assert "pinned: none" in capsys.readouterr().err


def test_the_list_fails_once_no_checkpoint_is_sound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "step-20" / "__0_state_0.distcp").unlink()
    assert main(["checkpoint", "list", str(folder)]) == 0
    (folder / "step-10" / MARKER).write_text("{}")
    assert main(["checkpoint", "list", str(folder)]) == 1
    assert capsys.readouterr().out.count("DAMAGED") == 3


def test_a_marker_whose_list_was_shortened_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = folder / "step-10" / MARKER
    content = json.loads(marker.read_text())
    content["files"] = [file for file in content["files"] if file["role"] != "state"]
    marker.write_text(json.dumps(content))
    assert main(["checkpoint", "verify", str(folder), "--quick"]) == 1
    assert "does not name __0_state_0.distcp, which is in the folder" in capsys.readouterr().out
    (folder / "step-10" / "__0_state_0.distcp").unlink()
    assert main(["checkpoint", "verify", str(folder)]) == 1
    assert "does not name __0_state_0.distcp, which is named by .metadata" in capsys.readouterr().out
