"""Every import points down, files make no circles, and the contract notices what breaks this."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.runs import ROOT

PLANTED = {
    "upward": ("store/describe.py", "from titan_speech.cli.main import main\n", "titan_speech.store is not allowed"),
    "circle": ("utils/files.py", "from titan_speech.utils.locks import RunLock\n", "titan_speech.utils"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})


def test_every_import_points_down_and_there_are_no_circles() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_breaks_the_contract(tmp_path: Path, name: str) -> None:
    file, line, message = PLANTED[name]
    shutil.copytree(ROOT / "titan_speech", tmp_path / "titan_speech", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "titan_speech" / file
    path.write_text(
        path.read_text().replace(
            "from __future__ import annotations\n", f"from __future__ import annotations\n{line}", 1
        )
    )
    if name == "circle":
        locks = tmp_path / "titan_speech" / "utils" / "locks.py"
        locks.write_text(locks.read_text() + "\nfrom titan_speech.utils.files import sync_folder\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stdout


def test_the_drawing_of_a_package_names_each_of_its_files() -> None:
    missing = []
    drawings = sorted((ROOT / "titan_speech").rglob("__init__.py"))
    for drawing in [*drawings, ROOT / "tests" / "support" / "__init__.py"]:
        if drawing.parent == ROOT / "titan_speech":
            continue
        text = drawing.read_text()
        for path in sorted(drawing.parent.iterdir()):
            is_part = path.suffix == ".py" if path.is_file() else path.name != "__pycache__"
            if is_part and path != drawing and not re.search(rf"\b{path.stem}(\.py|\b)", text):
                missing.append(str(path.relative_to(ROOT)))
    assert not missing, "name these files in the docstring of their package's __init__.py"


def test_the_documents_list_the_floors_of_the_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    floors = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    listed = (ROOT / "CONTRIBUTING.md").read_text().split("```")[1].split("\n")
    assert [set(line.split("  ")[0].split(", ")) for line in listed if line] == floors
    rows = re.findall(r"^\| \d+ \| (.*?) \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    assert [set(re.findall(r"\w+", row)) for row in rows[: len(floors)]] == floors
