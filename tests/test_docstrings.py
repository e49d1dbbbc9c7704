"""Docstrings name files that exist: a map that leads nowhere is worse than none."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.runs import ROOT

MODULES = sorted((ROOT / "titan_speech").rglob("*.py"))
NAMED = re.compile(r"(?<![\w*<>.{}-])((?:[a-z_][\w]*/)*[a-z_]\w*\.py)\b")
ELSEWHERE = {"data_merger.py"}
"""Files of other projects that a docstring may name."""


def docstrings(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_docstring_names_exists(path: Path) -> None:
    package = ROOT / "titan_speech"
    for name in set(NAMED.findall(docstrings(path))) - ELSEWHERE:
        places = [path.parent / name, package / name, ROOT / name, package.parent / name]
        found = any(place.exists() for place in places) or any(
            place.relative_to(ROOT).as_posix().endswith(f"/{name}") for place in MODULES if "/" in name
        )
        assert found, f"{path.relative_to(ROOT)} names {name}, which is in neither {path.parent.name}/ nor the tree"
