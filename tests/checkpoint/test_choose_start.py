"""A run starts from its newest checkpoint that is sound and full, whatever else lies in its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.checkpoints import save, world_of_one
from titan_speech.checkpoint.choose_start import Start, choose_start
from titan_speech.checkpoint.commit import MARKER, read_commit
from titan_speech.checkpoint.inspect import RunDir, list_checkpoints
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.retention import drop_optimizer_state
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.errors import CheckpointError

RUN = Provenance(vocabulary="v", grammar="g", model="llama3 debug", global_batch_tokens=1024)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Checkpoints of steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("three")
    with world_of_one(tmp_path_factory.mktemp("world")):
        for step in (1, 2, 3):
            save(folder, step)
        yield folder


@pytest.fixture
def folder(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "checkpoint"))


def chosen(folder: Path, **settings: object) -> Start:
    return choose_start(replace(CheckpointConfig(), **settings), folder, RUN)  # pyright: ignore[reportArgumentType]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_newest_is_taken_or_the_one_asked_for(folder: Path) -> None:
    assert chosen(folder) == Start(3, folder / "step-3")
    assert chosen(folder, load_step=2).step == 2
    with pytest.raises(CheckpointError, match=r"load_step = 7: no complete checkpoint .*there are the steps 1, 2, 3"):
        chosen(folder, load_step=7)
    assert chosen(folder / "elsewhere") == Start()


def test_a_flipped_byte_is_found_by_checksums_and_a_cut_file_without_them(folder: Path) -> None:
    flip(folder / "step-3" / "__0_state_0.distcp")
    assert chosen(folder).step == 2
    assert chosen(folder, verify_checksums=False).step == 3
    os.truncate(folder / "step-3" / "__0_state_0.distcp", 10)
    start = chosen(folder, verify_checksums=False)
    assert start.step == 2
    assert start.passed_over[0].startswith("step 3: damaged: __0_state_0.distcp has 10 bytes instead of")


def test_what_was_not_written_to_its_end_or_has_weights_only_is_not_resumed_from(folder: Path) -> None:
    (folder / "step-3" / MARKER).unlink()
    commit = read_commit(folder / "step-2")
    assert commit is not None
    drop_optimizer_state(folder / "step-2", commit)
    start = chosen(folder)
    assert start.step == 1
    assert start.passed_over == ("step 2: has weights only, no optimizer state to resume with",)


def test_nothing_begins_anew_beside_checkpoints_that_cannot_be_used(folder: Path) -> None:
    for step in (1, 2, 3):
        flip(folder / f"step-{step}" / ".metadata")
    with pytest.raises(CheckpointError, match=r"nothing in .* can be resumed from: step 3: damaged: \.metadata"):
        chosen(folder)
    for step in (1, 2, 3):
        (folder / f"step-{step}" / MARKER).unlink()
    with pytest.raises(CheckpointError, match=r"without a commit marker \(step-1, step-2, step-3\).*checkpoint mark"):
        chosen(folder)


def test_weights_of_another_run_are_verified_too(folder: Path, tmp_path: Path) -> None:
    weights = str(folder / "step-3")
    assert chosen(tmp_path / "new", initial_load_path=weights) == Start(checkpoint=folder / "step-3")
    flip(folder / "step-3" / "__0_model_0.distcp")
    with pytest.raises(
        CheckpointError, match=r"initial_load_path = .* is damaged: __0_model_0\.distcp has other bytes"
    ):
        chosen(tmp_path / "new", initial_load_path=weights)


def test_a_clock_that_jumped_changes_no_choice(folder: Path) -> None:
    for step, year in ((1, 2100), (3, 1970)):
        commit = read_commit(folder / f"step-{step}")
        assert commit is not None
        moved = replace(commit, written_unix_sec=(year - 1970) * 3.16e7)
        (folder / f"step-{step}" / MARKER).write_text(moved.to_json())
        os.utime(folder / f"step-{step}", (0, 0))
    assert chosen(folder).step == 3
    assert [line.split()[0] for line in list_checkpoints(RunDir(folder)).lines[1:]] == ["1", "2", "3"]
