"""The command that runs a suite: what cannot work is said before anything is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.run import alone, check_cases, check_writable, main
from benchmarks.suite import Options
from benchmarks.suites import train_step


def test_cases_that_a_suite_has_not_are_refused_with_those_that_it_has() -> None:
    check_cases("memory", ("fp32", "bf16"), ("bf16",))
    with pytest.raises(ValueError, match="found fp23 for memory, expected some of fp32, bf16"):
        check_cases("memory", ("fp32", "bf16"), ("fp23", "bf16"))
    with pytest.raises(ValueError, match="found speech for data_path, expected no --only"):
        check_cases("data_path", (), ("speech",))


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new/folder/report.json")
    with pytest.raises(ValueError, match="expected a folder that can be written"):
        check_writable(tmp_path / "file/report.json")
    with pytest.raises(ValueError, match="expected the name of a file"):
        check_writable(tmp_path)


def test_a_second_run_is_refused_while_the_first_measures(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with alone(lock), pytest.raises(RuntimeError, match="another benchmark is running here"), alone(lock):
        pass
    with alone(lock):
        pass


def test_more_gpus_than_there_are_are_refused_before_anything_is_measured() -> None:
    for world_size in (-1, 10**6):
        with pytest.raises(ValueError, match=f"found {world_size}, expected at most the"):
            train_step.run(Options(world_size=world_size))


def test_a_wrong_word_ends_the_command_with_a_line_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "startup", "--only", "sample", "--json", str(tmp_path / "report.json")])
    assert main() == 2
    assert "found sample for startup, expected some of samples, worlds" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
