"""`[job] extends = "other.toml"`: a file laid over one or several others.

In: the file asked for. Out: `Stack`: one merged tree, the files in the order they were laid over each other,
and what went wrong on the way (an absent file, a syntax error, a circle).

Paths are relative to the file that says them, so a folder of recipes can be moved. Chains may have any length;
`extends = ["pt_s1.toml", "backbones/llama3_1b.toml"]` lays the second with all it extends over the first, then the file
over both. Tables merge key by key; arrays of tables, such as `[[data.source]]`, are replaced whole, as a half-inherited
mixture would add up to something nobody wrote.

The one entry: words of the command line in, a checked configuration out.

In: `["--job.config_file", "train_configs/demo.toml", "--training.seq_len", "1024"]`. Out: `LoadedConfig`: the
configuration, where each value came from, and the files read, or one `ConfigError` with every problem.

World size is not part of a configuration: it is only used to check the parallel degrees when it is known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from titan_speech.config.convert import convert
from titan_speech.config.help import help_text
from titan_speech.config.overrides import Override, apply, parse_words
from titan_speech.config.problem import COMMAND_LINE, Origin, Problem, nearest_name, raise_problems
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.stores import place_origins, with_places
from titan_speech.config.toml_source import Array, Leaf, Node, Table, describe, merge, read, without_path


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


def read_extends(path: Path) -> Stack:
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
    pile.trees.append(without_path(tree, "job", "extends"))
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


CONFIG_FILE_FLAG = "--job.config_file"
_CONFIG_FILE = ("job", "config_file")
_EXTENDS = ("job", "extends")
_NO_EXTENDS = Problem(COMMAND_LINE, "job.extends", "a flag", "[job] extends in a file, it names the files below")


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration without problems; `origins` maps dotted keys (`data.source.0.share`) to their place."""

    config: SpeechConfig
    origins: Mapping[str, Origin]
    files: tuple[Path, ...]  # in the order they were laid over each other, the asked-for file last


@dataclass(frozen=True)
class Context:
    """Where values came from, which are unusable, where to point if none was written, the ranks."""

    origins: Mapping[str, Origin]
    suspects: Collection[str]
    file: Origin
    world_size: int | None = None


CheckAll: TypeAlias = Callable[[SpeechConfig, Context], list[Problem]]
"""Every problem of a configuration: preflight/ knows them."""


def read_config(argv: Sequence[str], check: CheckAll, world_size: int | None = None) -> LoadedConfig:
    """Read, merge, override and convert a configuration, and have it checked.

    Args:
        argv: words of a command line, with `--job.config_file FILE` among them.
        check: finds the problems of the converted configuration.
        world_size: number of processes, where it is known; `check` gets it.

    Raises:
        ConfigError: with every problem, each with its file and line.
    """
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text())
        raise SystemExit(0)
    overrides, problems = parse_words(argv)
    path = _config_file(overrides, problems)
    if path is None:
        raise_problems(problems)
        raise AssertionError("a missing file is a problem")
    stack = read_extends(path)
    converted = convert(_overridden(stack.tree, overrides, problems))
    findings = converted.findings
    problems += [*stack.problems, *findings.problems]
    if not stack.problems and "job.extends" not in findings.suspects:  # an unread file might have said more
        known = Context(findings.origins, findings.suspects, Origin(str(path)), world_size)
        problems += check(converted.config, known)
    raise_problems(problems)
    origins = {**findings.origins, **place_origins(converted.config, findings.origins)}
    return LoadedConfig(with_places(converted.config), origins, stack.files)


def _config_file(overrides: Sequence[Override], problems: list[Problem]) -> Path | None:
    """The file to start from; if there is none, a problem that names those that could be meant."""
    given = [override.text for override in overrides if override.path == _CONFIG_FILE]
    found = sorted(str(path) for path in Path("train_configs").glob("*.toml"))
    expected = "the path of a TOML file" + (f", such as {', '.join(found)}" if found else "")
    if not given or not given[-1]:
        expected = f"{CONFIG_FILE_FLAG} with {expected}"
        problems.append(Problem(COMMAND_LINE, "", f"no {CONFIG_FILE_FLAG}", expected))
        return None
    path = Path(given[-1])
    if path.is_file():
        return path
    what = f'"{path}", which is no file' if path.exists() else f'no file "{path}"'
    near = nearest_name(str(path), found)
    problems.append(Problem(COMMAND_LINE, CONFIG_FILE_FLAG, what, expected, near))
    return None


def _overridden(tree: Table, overrides: Sequence[Override], problems: list[Problem]) -> Table:
    """The tree with every flag but the file's own applied, the last of equal ones winning."""
    for override in overrides:
        if override.path == _CONFIG_FILE:
            continue
        outcome = _NO_EXTENDS if override.path == _EXTENDS else apply(tree, override)
        if isinstance(outcome, Problem):
            problems.append(outcome)
        else:
            tree = outcome
    return tree
