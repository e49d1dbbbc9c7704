"""Journals of alignment: what was cut is made again, and what is no record is named with its line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from titan_speech.align import journal
from titan_speech.align.answers import Answered, Journal, checked_scores, write_line
from titan_speech.align.job_files import append_step, cut_steps, read_steps
from titan_speech.align.journal import read_lines
from titan_speech.errors import DataError


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text('{"half": 1')
    (tmp_path / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(DataError, match="symbolic link"):
        append_step(tmp_path, 1, {"reward": 0.0})
    (tmp_path / "answers.jsonl").symlink_to(victim)
    answers = Journal(tmp_path, {})
    with pytest.raises(DataError, match="symbolic link"):
        list(answers.read())
    with pytest.raises(DataError, match="symbolic link"):
        answers.append()
    assert victim.read_text() == '{"half": 1'


def test_a_pipe_in_the_place_of_a_journal_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(DataError, match="is no file"):
        read_steps(tmp_path)
    os.mkfifo(tmp_path / "settings.json")
    with pytest.raises(DataError, match=r"settings\.json is damaged"):
        Journal(tmp_path, {})


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_LINE_BYTES", 100)
    path = written(tmp_path / "lines.jsonl", {"a": 1})
    with path.open("a") as file:
        file.write('{"a": "' + "x" * 200)
    lines = read_lines(path)
    assert next(lines) == (1, {"a": 1})
    with pytest.raises(DataError, match="line 2 is damaged"):
        next(lines)


def test_a_line_that_was_cut_is_removed_and_the_next_one_begins_there(tmp_path: Path) -> None:
    answers = Journal(tmp_path, {})
    with answers.append() as file:
        write_line(file, Answered("a", (), "too long"))
    with answers.path.open("a") as file:
        file.write('{"prompt": "b"')
    assert [one.sample_id for one in answers.read()] == ["a"]
    with answers.append() as file:
        write_line(file, Answered("b", (), "too long"))
    assert [one.sample_id for one in answers.read()] == ["a", "b"]


@pytest.mark.parametrize("scores", [{"a": float("nan")}, {"a": float("inf")}, {"a": 10**400}, {"a": -1e300}])
def test_a_score_that_no_sum_takes_is_refused(scores: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="the score 'a' is"):
        checked_scores(scores)


@pytest.mark.parametrize("scores", [{"a": "1"}, {"a": True}, {"a": None}, [1.0], 5])
def test_scores_are_names_with_numbers(scores: Any) -> None:
    with pytest.raises(TypeError, match="expected names with numbers"):
        checked_scores(scores)


@pytest.mark.parametrize(
    "record",
    [
        5,
        [],
        {"step": 1},
        {"event": "parity"},
        {"step": "1", "align/reward": 0.0},
        {"step": True, "align/reward": 0.0},
        {"step": 1, "align/reward": "0"},
        {"step": 1, "align/reward": float("nan")},
        {"step": 1, "align/reward": 0.0, "align/loop": 10**400},
    ],
)
def test_a_line_that_is_no_step_is_named(tmp_path: Path, record: Any) -> None:
    written(tmp_path / "metrics.jsonl", {"step": 1, "align/reward": 0.0}, record)
    for read in (read_steps, lambda folder: cut_steps(folder, 3)):
        with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is damaged"):
            read(tmp_path)


def test_a_mean_that_is_no_number_does_not_end_the_job_when_it_resumes(tmp_path: Path) -> None:
    append_step(tmp_path, 1, {"reward": 0.5, "kl": float("nan")})
    assert read_steps(tmp_path) == [{"step": 1, "reward": 0.5}]


def test_answers_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step-x.json").touch()
    cut_steps(tmp_path, 0)
    assert (tmp_path / "rollouts" / "step-x.json").exists()
