"""`[job] extends = "other.toml"`: a file laid over one or several others.

In: the file asked for. Out: `Stack`: one merged tree, the files in the order they were laid over each other,
and what went wrong on the way (an absent file, a syntax error, a circle).

Paths are relative to the file that says them, so a folder of recipes can be moved. Chains may have any length;
`extends = ["pt_s1.toml", "backbones/llama3_1b.toml"]` lays the second with all it extends over the first, then the file
over both. Tables merge key by key; arrays of tables, such as `[[data.source]]`, are replaced whole, as a half-inherited
mixture would add up to something nobody wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from titan_speech.config.problem import Origin, Problem, nearest_name
from titan_speech.config.source import read
from titan_speech.config.tree import Array, Leaf, Node, Table, describe, merge, without


@dataclass(frozen=True)
class Stack:
    """Files merged into one tree."""

    tree: Table
    files: tuple[Path, ...]
    problems: tuple[Problem, ...]


@dataclass
class _Pile:
    """What was read so far, the lowest file first."""

    trees: list[Table] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_chain(path: Path) -> Stack:
    """`path` over all it extends; after a problem, over those that could be read."""
    pile = _Pile()
    _add(path, (), pile)
    return Stack(_merged(pile.trees), tuple(pile.files), tuple(pile.problems))


def _add(path: Path, above: tuple[Path, ...], pile: _Pile) -> None:
    """First what the file extends, then the file; `above` are those that led to it."""
    tree = read(path)
    if isinstance(tree, Problem):
        pile.problems.append(tree)
        return
    for leaf in _links(tree):
        below = _file_below(leaf, (*above, path))
        if isinstance(below, Problem):
            pile.problems.append(below)
        else:
            _add(below, (*above, path), pile)
    pile.trees.append(without(tree, "job", "extends"))
    pile.files.append(path)


def _merged(trees: list[Table]) -> Table:
    result = Table({}, Origin())
    for tree in trees:
        merged = merge(result, tree)
        assert isinstance(merged, Table)
        result = merged
    return result


def _links(tree: Table) -> tuple[Node, ...]:
    """What `extends` of a file holds, one or several."""
    job = tree.entries.get("job")
    node = job.entries.get("extends") if isinstance(job, Table) else None
    if node is None:
        return ()
    return node.items if isinstance(node, Array) else (node,)


def _file_below(leaf: Node, chain: tuple[Path, ...]) -> Path | Problem:
    """The file that the last one of the chain extends."""
    if not (isinstance(leaf, Leaf) and isinstance(leaf.value, str)):
        expected = "the path of a TOML file, or a list of them"
        return Problem(leaf.origin, "job.extends", describe(leaf), expected)
    path = chain[-1].parent / leaf.value
    if not path.is_file():
        return _absent(path, leaf.origin)
    if path.resolve() in {file.resolve() for file in chain}:
        circle = " -> ".join(str(file) for file in [*chain, path])
        return Problem(leaf.origin, "job.extends", f"a circle: {circle}", "a chain of files that ends")
    return path


def _absent(path: Path, origin: Origin) -> Problem:
    near = nearest_name(path.name, (other.name for other in path.parent.glob("*.toml")))
    expected = "a TOML file, relative to the one that extends it"
    return Problem(origin, "job.extends", f'no file "{path}"', expected, near)
