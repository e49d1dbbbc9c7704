"""The record beside a checkpoint decides what may be loaded from it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from titan_speech.checkpoint.provenance import (
    Provenance,
    git_revision,
    package_versions,
    provenance_path,
    read_provenance,
)
from titan_speech.errors import CheckpointError

RUN = Provenance(
    vocabulary="v1",
    grammar="g1",
    model="llama3 debug",
    plan="p1",
    global_batch_tokens=1024,
    stores=("s1", "s2"),
    versions=package_versions(),
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    RUN.write(tmp_path / "step-5")
    assert read_provenance(tmp_path / "step-5") == RUN
    assert read_provenance(tmp_path / "step-6") is None
    assert list(provenance_path(tmp_path / "step-5").parent.iterdir()) == [provenance_path(tmp_path / "step-5")]


@pytest.mark.parametrize("field", ["vocabulary", "grammar", "model", "global_batch_tokens"])
def test_resuming_needs_all_of_these_to_agree_and_names_both_sides(field: str, tmp_path: Path) -> None:
    other = replace(RUN, **{field: "another"})
    with pytest.raises(
        CheckpointError, match=f"{field}: the checkpoint has another, this run has {getattr(RUN, field)}"
    ):
        RUN.check_fits(other, tmp_path, weights_only=False)


@pytest.mark.parametrize("field", ["grammar", "plan", "global_batch_tokens"])
def test_weights_alone_may_come_from_another_plan_or_grammar(field: str, tmp_path: Path) -> None:
    RUN.check_fits(replace(RUN, **{field: "another"}), tmp_path, weights_only=True)


def test_versions_revision_and_world_size_may_differ(tmp_path: Path) -> None:
    RUN.check_fits(replace(RUN, versions=(), git_revision="x", world_size=8), tmp_path, weights_only=False)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    RUN.write(tmp_path / "step-5")
    path = provenance_path(tmp_path / "step-5")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CheckpointError, match=r"step-5\.json is damaged"):
        read_provenance(tmp_path / "step-5")


def test_the_revision_is_that_of_the_repository_dirty_or_none_at_all(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == ""
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for words in (("init", "-q"), (*who, "commit", "-q", "--allow-empty", "-m", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    revision = git_revision(tmp_path)
    assert len(revision) == 40
    (tmp_path / "new.py").write_text("")
    subprocess.run(["git", "-C", str(tmp_path), "add", "new.py"], check=True)
    assert git_revision(tmp_path) == f"{revision}-dirty"
