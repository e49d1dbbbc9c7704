"""`[job] extends = "other.toml"`: one file laid over another.

In: the file asked for. Out: `Stack`: one merged tree, the files in the order they were laid over each other,
and what went wrong on the way (an absent file, a syntax error, a circle).

The path is relative to the file that says it, so a folder of recipes can be moved. Chains may have any
length. Tables merge key by key; arrays of tables, such as `[[data.source]]`, are replaced whole, as a
half-inherited mixture would add up to something nobody wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from titan_speech.config.problem import Origin, Problem, nearest_name
from titan_speech.config.source import read
from titan_speech.config.tree import Leaf, Table, describe, merge, without


@dataclass(frozen=True)
class Stack:
    """Files merged into one tree."""

    tree: Table
    files: tuple[Path, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Link:
    """What a file extends, and where it says so."""

    path: Path
    origin: Origin


def read_chain(path: Path) -> Stack:
    """`path` over all it extends; after a problem, over those that could be read."""
    trees: list[Table] = []
    files: list[Path] = []
    step: _Link | Problem | None = _Link(path, Origin(str(path)))
    while isinstance(step, _Link):
        tree = read(step.path)
        if isinstance(tree, Problem):
            step = tree
            break
        files.insert(0, step.path)
        trees.insert(0, without(tree, "job", "extends"))
        step = _next(tree, files)
    return Stack(_merged(trees), tuple(files), (step,) if isinstance(step, Problem) else ())


def _merged(trees: list[Table]) -> Table:
    result = Table({}, Origin())
    for tree in trees:
        merged = merge(result, tree)
        assert isinstance(merged, Table)
        result = merged
    return result


def _next(tree: Table, files: list[Path]) -> _Link | Problem | None:
    """The file the newest one extends: None if none, a problem if it cannot be."""
    job = tree.entries.get("job")
    leaf = job.entries.get("extends") if isinstance(job, Table) else None
    if leaf is None:
        return None
    if not (isinstance(leaf, Leaf) and isinstance(leaf.value, str)):
        return Problem(leaf.origin, "job.extends", describe(leaf), "the path of a TOML file")
    path = files[0].parent / leaf.value
    if not path.is_file():
        return _absent(path, leaf.origin)
    if path.resolve() in {file.resolve() for file in files}:
        chain = " -> ".join(str(file) for file in [*reversed(files), path])
        return Problem(leaf.origin, "job.extends", f"a circle: {chain}", "a chain of files that ends")
    return _Link(path, leaf.origin)


def _absent(path: Path, origin: Origin) -> Problem:
    near = nearest_name(path.name, (other.name for other in path.parent.glob("*.toml")))
    expected = "a TOML file, relative to the one that extends it"
    return Problem(origin, "job.extends", f'no file "{path}"', expected, near)
