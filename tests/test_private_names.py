"""Private names of libraries are used in the places that docs/design.md lists, and in no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.support.runs import ROOT

PRIVATE = re.compile(r"_[A-Za-z]")


def private(name: str) -> bool:
    return any(PRIVATE.match(part) for part in name.split("."))


def own_names(tree: ast.Module) -> set[str]:
    """Functions, classes, parameters, variables, and attributes of `self` that the file sets."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(ast.Name("self" | "cls"), name, ast.Store()):
                names.add(name)
    return names


def imported_names(tree: ast.Module) -> set[str]:
    """Private modules and names that are imported from elsewhere."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=aliases) if not module.startswith(("titan_speech", "__")):
                names |= {module, *(alias.name for alias in aliases)}
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
    return set(filter(private, names))


def attributes(tree: ast.Module) -> set[str]:
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if private(node.attr) and ast.unparse(node) != "os._exit"}


def test_private_names_of_libraries_are_listed() -> None:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in (ROOT / "titan_speech").rglob("*.py")}
    own = set().union(*map(own_names, trees.values()))
    used = {path: imported_names(tree) | attributes(tree) - own for path, tree in trees.items()}
    found = {str(path.relative_to(ROOT / "titan_speech")): names for path, names in used.items() if names}
    text = Path(ROOT / "docs" / "design.md").read_text("utf-8").partition("Private names")[2].partition("\n## ")[0]
    rows = [row.split("|")[1:3] for row in text.splitlines() if row.startswith("| `")]
    listed = {file.strip(" `"): set(re.findall(r"`([^`]+)`", names)) for file, names in rows}
    assert found == listed
