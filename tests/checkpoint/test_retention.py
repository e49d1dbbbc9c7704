"""When a checkpoint is saved, and which are kept: pure functions, and at work on real checkpoints."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import save, world_of_one
from titan_speech.checkpoint.commit import MARKER, committed_steps, read_commit
from titan_speech.checkpoint.folders import discard
from titan_speech.checkpoint.keeper import RetentionKeeper
from titan_speech.checkpoint.retention import (
    Removal,
    RetentionPolicy,
    StoredCheckpoint,
    choose_removal,
    is_due,
    pin,
    unpin,
)
from titan_speech.checkpoint.upload.job import StatusWriter, status_path
from titan_speech.config.schema_operations import CadenceRule, CheckpointConfig, UploadConfig
from titan_speech.errors import CheckpointError

POLICIES = st.builds(RetentionPolicy, st.integers(0, 4), st.integers(0, 4), st.integers(0, 7))
STORED = st.builds(
    StoredCheckpoint, st.integers(0, 60), st.sampled_from(["full", "model"]), *(st.booleans() for _ in range(5))
)
STATES = st.lists(STORED, max_size=25, unique_by=lambda one: one.step)


def test_the_cadence_of_the_recipes() -> None:
    rules = CheckpointConfig().cadence
    due = [step for step in range(80_001) if is_due(rules, step)]
    assert due[:10] == list(range(1_000, 10_001, 1_000))
    assert due[10:18] == list(range(15_000, 50_001, 5_000))
    assert due[18:] == [60_000, 70_000, 80_000]
    assert [step for step in range(9) if is_due((CadenceRule(until=4, every=2), CadenceRule(every=3)), step)] == [
        2,
        4,
        6,
    ]


def is_left_alone(one: StoredCheckpoint, policy: RetentionPolicy) -> bool:
    return one.is_pinned or one.is_held or one.is_waiting or policy.is_milestone(one.step)


@given(STATES, POLICIES)
def test_what_is_pinned_held_waited_for_a_milestone_or_not_sound_is_left_as_it_is(
    states: list[StoredCheckpoint], policy: RetentionPolicy
) -> None:
    decided = choose_removal(states, policy)
    for one in states:
        if is_left_alone(one, policy) or not one.is_sound:
            assert one.step not in (*decided.delete, *decided.drop_optimizer)


@given(STATES, POLICIES)
def test_the_newest_full_checkpoints_stay_full_and_one_sound_checkpoint_always_stays(
    states: list[StoredCheckpoint], policy: RetentionPolicy
) -> None:
    decided = choose_removal(states, policy)
    sound = sorted((one for one in states if one.is_sound), key=lambda one: -one.step)
    full = [one.step for one in sound if one.kind == "full" and not one.is_suspect]
    newest = full[: policy.keep_last_full or None]
    assert not set(newest) & {*decided.delete, *decided.drop_optimizer}
    assert not sound or any(one.step not in decided.delete for one in sound)
    if full:
        assert any(step not in (*decided.delete, *decided.drop_optimizer) for step in full)


@given(STATES, POLICIES)
def test_no_more_is_kept_than_the_policy_says_and_a_second_look_changes_nothing(
    states: list[StoredCheckpoint], policy: RetentionPolicy
) -> None:
    decided = choose_removal(states, policy)
    assert set(decided.drop_optimizer) <= {one.step for one in states if one.kind == "full"}
    assert not set(decided.delete) & set(decided.drop_optimizer)
    after = [
        replace(one, kind="model" if one.step in decided.drop_optimizer else one.kind)
        for one in states
        if one.step not in decided.delete
    ]
    assert choose_removal(after, policy) == Removal()
    plain = [one for one in after if one.is_sound and not is_left_alone(one, policy)]
    if policy.keep_last_full:
        assert sum(one.is_suspect for one in plain) <= 1
    plain = [one for one in plain if not one.is_suspect]
    if policy.keep_last_full and any(one.kind == "full" and not one.is_suspect for one in after if one.is_sound):
        assert len(plain) <= policy.keep_last_full + policy.keep_last_model_only


@given(STATES, POLICIES)
def test_suspect_checkpoints_never_cost_a_good_one_and_the_newest_of_them_stays(
    states: list[StoredCheckpoint], policy: RetentionPolicy
) -> None:
    decided = choose_removal(states, policy)
    of_good = choose_removal([one for one in states if not one.is_suspect], policy)
    suspect = {one.step for one in states if one.is_suspect}
    assert set(of_good.delete) == set(decided.delete) - suspect
    assert of_good.drop_optimizer == decided.drop_optimizer
    assert max((one.step for one in states if one.is_suspect and one.is_sound), default=-1) not in decided.delete


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with world_of_one(tmp_path_factory.mktemp("world")):
        yield


def kinds(folder: Path) -> dict[int, str]:
    commits = {step: read_commit(folder / f"step-{step}") for step in committed_steps(folder)}
    return {step: commit.kind for step, commit in commits.items() if commit is not None}


@pytest.mark.usefixtures("world")
def test_old_checkpoints_are_thinned_then_deleted_but_not_while_they_are_pinned_or_read(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, step)
    table = CheckpointConfig(keep_last_full=2, keep_last_model_only=1, milestone_every_steps=3)
    pin(tmp_path, 2)
    with (tmp_path / "step-1" / MARKER).open("r+") as read_by_an_upload:
        fcntl.flock(read_by_an_upload, fcntl.LOCK_SH)
        apply(tmp_path, table)
        expected = {1: "full", 2: "full", 3: "full", 5: "model", 6: "full", 7: "full"}
        assert kinds(tmp_path) == expected
    with pytest.raises(CheckpointError, match=r"step 3 in .* is not pinned, so nothing was changed; pinned: 2"):
        unpin(tmp_path, 3)
    unpin(tmp_path, 2)
    apply(tmp_path, table, newest_step=1)
    assert kinds(tmp_path) == expected  # all others are of a branch that was left
    apply(tmp_path, table)
    assert kinds(tmp_path) == {3: "full", 5: "model", 6: "full", 7: "full"}


@pytest.mark.usefixtures("world")
def test_what_an_address_that_keeps_everything_does_not_have_yet_stays_while_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    for step in range(1, 5):
        save(folder, step)
    table = CheckpointConfig(keep_last_full=1, keep_last_model_only=0, milestone_every_steps=0)
    all_of_them = UploadConfig(to="s3://bucket/run", keep="all")
    apply(folder, table, upload=all_of_them)  # the uploader has not said anything yet
    assert list(kinds(folder)) == [1, 2, 3, 4]
    StatusWriter(status_path(tmp_path), "s3://bucket/run").show([], [], ["step-1", "step-2"])
    (folder / "step-1" / MARKER).write_text("5")  # a damaged one counts for nothing and stays for a person to look at
    apply(folder, table, upload=all_of_them)
    assert sorted(committed_steps(folder)) == [1, 3, 4]
    discard(folder / "step-1")
    monkeypatch.setattr("titan_speech.checkpoint.keeper.MIN_CHECKPOINTS_OF_SPACE", 10**12)
    apply(folder, table, upload=all_of_them)
    assert kinds(folder) == {4: "full"}


def apply(folder: Path, table: CheckpointConfig, newest_step: int = 7, upload: UploadConfig | None = None) -> None:
    keeper = RetentionKeeper(folder, table, upload)
    keeper.remove(keeper.choose_removal(newest_step))
    keeper.close()
