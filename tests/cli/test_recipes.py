"""`titan-speech recipes`: what is copied works where it was copied to, and never replaces a reader's own file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from titan_speech.cli.main import main
from titan_speech.cli.recipes import bundled_folder, example_names, files_of, recipe_names
from titan_speech.preflight.config_checks import load_config

NAMES = [*recipe_names(bundled_folder()), *example_names(bundled_folder())]


def test_a_copied_recipe_is_complete_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "copy", "tour/s2"]) == 0
    assert (tmp_path / "train_configs/demo.toml").exists(), "the file it extends"
    capsys.readouterr()
    assert main(["config", "check", "--here", "--job.config_file", "train_configs/tour/s2.toml"]) in (0, 2)
    said = "".join(capsys.readouterr())
    assert "demo_data" not in said
    assert "tokenizer/tiny" not in said
    assert main(["config", "check", "--here", "--job.config_file", "train_configs/demo.toml"]) == 0
    capsys.readouterr()
    assert main(["recipes", "copy", "tour/s2"]) == 0, "equal files are no reason to stop"
    assert re.match(r"copied 0 files to \. \(\d+ more were there already\): ", capsys.readouterr().out)


@pytest.mark.parametrize("name", example_names(bundled_folder()))
def test_an_example_comes_with_the_page_that_walks_through_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["recipes", "copy", name, "--output", str(tmp_path)]) == 0
    page = re.findall(r"the steps of (docs/\w+\.md)", capsys.readouterr().out)
    assert f"examples/{name}/" in (tmp_path / page[0]).read_text(encoding="utf-8")


def test_a_changed_file_is_named_and_nothing_is_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "train_configs/demo.toml"
    mine.parent.mkdir()
    mine.write_text("# mine\n")
    assert main(["recipes", "copy", "demo", "--output", str(tmp_path)]) == 2
    assert str(mine) in capsys.readouterr().err
    assert mine.read_text() == "# mine\n"
    assert [path.name for path in tmp_path.iterdir()] == ["train_configs"]


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "copy", "own_voise", "--output", str(tmp_path)]) == 2
    assert "did you mean own_voice?" in capsys.readouterr().err


def test_the_list_has_every_recipe_and_example_with_a_title_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    titles = {name: title for name, title in lines}
    assert set(NAMES) <= set(titles)
    assert len(set(titles.values())) == len(titles)


@pytest.mark.parametrize("name", NAMES)
def test_everything_a_recipe_needs_of_the_bundled_files_exists(name: str) -> None:
    root = bundled_folder()
    files = set(files_of(root, name))
    assert files
    assert all((root / file).is_file() for file in files)


@pytest.mark.parametrize("path", sorted((bundled_folder() / "examples").rglob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_of_an_example_has_no_problem(path: Path) -> None:
    assert load_config(["--job.config_file", str(path)]).config.job.description
