"""Files of several inputs have distinct names, and a name says where its file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from titan_speech.errors import DataError
from titan_speech.importers.files import find_files


def names(*inputs: Path) -> list[str]:
    return [file.name for file in find_files(inputs, (".jsonl",), "jsonl")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train/data.jsonl", "dev/data.jsonl", "dev/more.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_names_are_paths_inside_the_input(folder: Path) -> None:
    assert names(folder / "dev") == ["data.jsonl", "more.jsonl"]
    assert names(folder) == ["dev/data.jsonl", "dev/more.jsonl", "train/data.jsonl"]
    assert names(folder / "dev", folder / "train") == ["dev/data.jsonl", "dev/more.jsonl", "train/data.jsonl"]


def test_files_and_folders_of_the_same_name_are_named_by_the_path_from_their_common_parent(folder: Path) -> None:
    assert names(folder / "train/data.jsonl", folder / "dev/data.jsonl") == ["dev/data.jsonl", "train/data.jsonl"]
    for outer in ("a", "b"):
        (folder / outer / "wavs").mkdir(parents=True)
        (folder / outer / "wavs" / "1.jsonl").touch()
    assert names(folder / "a/wavs", folder / "b/wavs") == ["a/wavs/1.jsonl", "b/wavs/1.jsonl"]


def test_a_file_that_is_given_twice_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"dev/data.jsonl is given twice, .*: give it once"):
        names(folder / "dev/data.jsonl", folder / "train/../dev/data.jsonl")
