"""A checkpoint is there as a whole or not at all, and says what it is made of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import xxhash

from tests.support.checkpoint_folders import write_checkpoint
from tests.support.checkpoints import save, save_job, state, try_to_save, world_of_one
from titan_speech.checkpoint.commit import INDEX, MARKER, committed_steps, read_commit
from titan_speech.checkpoint.folders import partial_path, recover
from titan_speech.checkpoint.index_reader import read_index
from titan_speech.checkpoint.inspect import RunDir, list_checkpoints
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.retention import drop_optimizer_state
from titan_speech.checkpoint.saver import Saver
from titan_speech.checkpoint.verify import verify, write_marker
from titan_speech.errors import CheckpointError


@pytest.fixture(autouse=True, scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with world_of_one(tmp_path_factory.mktemp("world")):
        yield


def loaded(checkpoint: Path, *names: str) -> dict[str, torch.Tensor]:
    found = {name: tensor for name, tensor in state(0.0).items() if name in names}
    dcp.load(found, checkpoint_id=str(checkpoint))
    return found  # pyright: ignore[reportReturnType]


def test_the_marker_names_every_other_file_with_its_size_and_checksum(tmp_path: Path) -> None:
    commit = save(tmp_path, 5)
    checkpoint = tmp_path / "step-5"
    assert read_commit(checkpoint) == commit
    assert {file.name for file in commit.files} | {MARKER} == {path.name for path in checkpoint.iterdir()}
    assert {file.role for file in commit.files} == {"model", "state", "index"}
    assert verify(checkpoint, checksums=True).is_sound
    assert committed_steps(tmp_path) == [5]


@pytest.mark.parametrize("async_mode", ["async", "async_with_pinned_mem"])
def test_an_asynchronous_save_holds_the_state_of_its_step_and_not_a_later_one(tmp_path: Path, async_mode: str) -> None:
    saver, weights = Saver(async_mode), state(7.0, num_rows=100_000)
    saver.start(weights, save_job(tmp_path, 7), wait=False)
    saver.wait_for_staging()
    for tensor in (weights["tok_embeddings.weight"], weights["norm.weight"]):
        tensor.fill_(8.0)  # pyright: ignore[reportAttributeAccessIssue]
    assert saver.settle().commit is not None
    saver.close()
    assert loaded(tmp_path / "step-7", "norm.weight")["norm.weight"].unique().tolist() == [7.0]
    large = {"tok_embeddings.weight": torch.zeros(100_000, 16)}
    dcp.load(large, checkpoint_id=str(tmp_path / "step-7"))
    assert large["tok_embeddings.weight"].unique().tolist() == [7.0]


@pytest.mark.parametrize("async_mode", ["disabled", "async"])
def test_a_save_that_cannot_be_written_leaves_nothing_and_the_one_before_as_it_was(
    tmp_path: Path, async_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5, async_mode)
    (tmp_path / "step-6.partial").touch()  # where the folder is to be made: as good as no access, also for root
    ended = try_to_save(tmp_path, 6, async_mode)
    assert ended.commit is None
    assert "Error on rank 0" in ended.error
    (tmp_path / "step-6.partial").unlink(missing_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]
    assert verify(tmp_path / "step-5", checksums=True).is_sound


def test_a_flipped_byte_a_cut_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    commit = save(tmp_path, 5)
    for damage, words in ((flip, "has other bytes"), (cut, "instead of"), (Path.unlink, "is missing")):
        for file in commit.files:
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            shutil.copytree(tmp_path / "step-5", tmp_path / "copy" / "step-5")
            damage(tmp_path / "copy" / "step-5" / file.name)
            (problem,) = verify(tmp_path / "copy" / "step-5", checksums=True).problems
            assert file.name in problem
            assert words in problem


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def test_a_damaged_marker_and_one_of_another_step_are_no_sound_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 5)
    shutil.copytree(tmp_path / "step-5", tmp_path / "step-6")
    assert "is of step 5" in verify(tmp_path / "step-6", checksums=False).problems[0]
    cut(tmp_path / "step-5" / MARKER)
    os.truncate(tmp_path / "step-5" / MARKER, 40)
    assert "is damaged" in verify(tmp_path / "step-5", checksums=False).problems[0]


def with_field(text: str, name: str, value: object) -> str:
    return json.dumps({**json.loads(text), name: value})


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "5",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: with_field(text, "files", []),
        lambda text: with_field(text, "kind", "whole"),
        lambda text: with_field(text, "written_unix_sec", None),
        lambda text: with_field(text, "files", [{**json.loads(text)["files"][0], "num_bytes": "7"}]),
        lambda text: with_field(text, "files", [{**json.loads(text)["files"][0], "name": None}]),
    ],
)
def test_a_marker_edited_by_hand_is_a_problem_of_its_checkpoint_alone(
    edit: Callable[[str], str], tmp_path: Path
) -> None:
    save(tmp_path, 5)
    marker = tmp_path / "step-5" / MARKER
    marker.write_text(edit(marker.read_text()))
    assert MARKER in verify(tmp_path / "step-5", checksums=True).problems[0]
    assert "DAMAGED" in str(list_checkpoints(RunDir(tmp_path)))


def test_a_marker_that_lost_files_is_no_proof_of_those_that_are_left(tmp_path: Path) -> None:
    save(tmp_path, 5)
    marker = tmp_path / "step-5" / MARKER
    files = [file for file in json.loads(marker.read_text())["files"] if file["role"] != "state"]
    marker.write_text(with_field(marker.read_text(), "files", files))
    (problem,) = verify(tmp_path / "step-5", checksums=False).problems
    assert problem.startswith("commit.json does not name __0_state_0.distcp, which is in the folder: it was edited")
    (tmp_path / "step-5" / "__0_state_0.distcp").unlink()
    assert verify(tmp_path / "step-5", checksums=False).is_sound
    (problem,) = verify(tmp_path / "step-5", checksums=True).problems
    assert problem.startswith("commit.json does not name __0_state_0.distcp, which is named by .metadata")


def test_a_step_saved_again_replaces_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "step-5" / "of the old one").touch()
    save(tmp_path, 5)
    assert not (tmp_path / "step-5" / "of the old one").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]


def test_what_killed_saves_left_is_finished_or_removed(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 6)
    (tmp_path / "step-6").rename(partial_path(tmp_path / "step-6"))  # killed between marker and rename
    shutil.copytree(tmp_path / "step-5", partial_path(tmp_path / "step-7"))
    (partial_path(tmp_path / "step-7") / MARKER).unlink()  # killed before the marker
    shutil.copytree(tmp_path / "step-5", tmp_path / "step-4.deleted")
    done = recover(tmp_path)
    assert len(done) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-5", "step-6"]
    assert verify(tmp_path / "step-6", checksums=True).is_sound


@pytest.mark.parametrize("has_marker", [False, True])
def test_a_link_in_the_place_of_a_partial_checkpoint_is_removed_and_not_written_through(
    tmp_path: Path, has_marker: bool
) -> None:
    folder, outside = tmp_path / "checkpoint", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    if has_marker:
        (outside / MARKER).write_text("{}")
    before = list(outside.iterdir())
    partial_path(folder / "step-3").symlink_to(outside)
    assert recover(folder) == ["step-3.partial, a symbolic link, was removed; what it led to was not touched"]
    save(folder, 3)
    assert list(outside.iterdir()) == before
    assert not (folder / "step-3").is_symlink()


@pytest.mark.parametrize("name", [MARKER, INDEX, "__0_model_0.distcp"])
def test_a_device_in_the_place_of_a_file_is_not_read(tmp_path: Path, name: str) -> None:
    """/dev/zero has 0 bytes and no end, and a pipe is waited for; /dev/null is as little a file, and has an end."""
    checkpoint = write_checkpoint(tmp_path, 3)
    commit = read_commit(checkpoint)
    assert commit is not None
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to(os.devnull)
    if name != MARKER:
        empty = xxhash.xxh3_128_hexdigest(b"")
        files = [replace(one, num_bytes=0, xxh3_128=empty) if one.name == name else one for one in commit.files]
        (checkpoint / MARKER).write_text(replace(commit, files=tuple(files)).to_json())
    assert ["not a regular file" in problem for problem in verify(checkpoint, checksums=True).problems] == [True]
    if name == INDEX:
        with pytest.raises(CheckpointError, match="not a regular file"):
            read_index(checkpoint / INDEX)


def test_the_name_of_a_file_that_was_added_stays_in_its_line(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 3)
    (checkpoint / "x\nall sound.distcp").write_bytes(b"")
    [problem] = verify(checkpoint, checksums=False).problems
    assert "does not name x\\u000aall sound.distcp, which is in the folder" in problem


def test_a_thinned_checkpoint_has_its_weights_and_nothing_else(tmp_path: Path) -> None:
    full = save(tmp_path, 5)
    model = drop_optimizer_state(tmp_path / "step-5", full)
    assert model.kind == "model"
    assert model.num_bytes < full.num_bytes
    assert verify(tmp_path / "step-5", checksums=True).commit == model
    assert not list((tmp_path / "step-5").glob("*_state_*"))
    assert loaded(tmp_path / "step-5", "norm.weight")["norm.weight"].unique().tolist() == [5.0]
    names = dcp.FileSystemReader(tmp_path / "step-5").read_metadata().state_dict_metadata
    assert set(names) == {"tok_embeddings.weight", "norm.weight"}


def test_a_checkpoint_of_another_program_is_none_until_it_is_adopted(tmp_path: Path) -> None:
    dcp.save(state(5.0), checkpoint_id=str(tmp_path / "step-5"))
    assert committed_steps(tmp_path) == []
    assert "checkpoint mark" in verify(tmp_path / "step-5", checksums=False).problems[0]
    (tmp_path / "data_phases").mkdir()
    (tmp_path / "data_phases" / "step-5.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"step-5\.json is damaged"):
        write_marker(tmp_path / "step-5")
    shutil.rmtree(tmp_path / "data_phases")
    Provenance(vocabulary="v", grammar="g", model="m", global_batch_tokens=4, step=5).write(tmp_path / "step-5")
    adopted = write_marker(tmp_path / "step-5")
    assert adopted.kind == "full"
    assert [file.name for file in adopted.files if file.role == "beside"] == ["provenance/step-5.json"]
    assert verify(tmp_path / "step-5", checksums=True).is_sound
    with pytest.raises(CheckpointError, match="already has a marker"):
        write_marker(tmp_path / "step-5")
    (shard,) = (tmp_path / "step-5").glob("*.distcp")
    cut(shard)
    (tmp_path / "step-5" / MARKER).unlink()
    with pytest.raises(CheckpointError, match="cut short"):
        write_marker(tmp_path / "step-5")
