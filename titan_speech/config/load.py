"""From the words of a command line to one checked configuration.

In: `["--job.config_file", "train_configs/demo.toml", "--training.seq_len", "1024"]`. Out: `LoadedConfig`: the
configuration, where each value came from, and the files read; or one `ConfigError` with every problem.

`[job] extends = "other.toml"` merges a file on top of another one, and `extends = ["pt_s1.toml", "llama3_1b.toml"]` on
top of several, of which each overrides those before it. Chains may have any length. Paths are relative to the file that
names them, so a folder of recipes can be moved. Tables merge key by key; arrays of tables, such as `[[data.source]]`,
are replaced whole, since shares of a half-inherited mixture would not add up to what anybody intended.

The world size is not part of a configuration; it only serves to check the parallel degrees where it is known.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from titan_speech.config.convert import convert
from titan_speech.config.help import help_text
from titan_speech.config.overrides import Override, apply_override, parse_flags
from titan_speech.config.problem import COMMAND_LINE, ConfigProblem, Origin, nearest_name, raise_problems
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.store_names import resolve_store_names, store_path_origins
from titan_speech.config.toml_text import read_toml
from titan_speech.config.tree import ArrayNode, LeafNode, Node, TableNode, describe_node, merge, without_key

CONFIG_FILE_FLAG = "--job.config_file"
_CONFIG_FILE = ("job", "config_file")
_EXTENDS = ("job", "extends")
_EXTENDS_AS_FLAG = ConfigProblem(
    COMMAND_LINE, "job.extends", "a flag", "[job] extends in a file, it names the files below"
)


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration without problems.

    Attributes:
        origins: where each value was written, by dotted key (`data.source.0.share`).
        files: the files read, in the order of merging; the one named on the command line is the last.
    """

    config: SpeechConfig
    origins: Mapping[str, Origin]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class CheckContext:
    """What checks know besides the configuration.

    Attributes:
        origins: where each value was written, by dotted key.
        suspects: keys that have a problem already.
        file: where a problem of values that nobody wrote is reported.
        world_size: number of processes, None where it is unknown.
    """

    origins: Mapping[str, Origin]
    suspects: Collection[str]
    file: Origin
    world_size: int | None = None


CheckAll: TypeAlias = Callable[[SpeechConfig, CheckContext], list[ConfigProblem]]
"""Finds every problem of a configuration; preflight/ has the one that is used."""


def read_config(argv: Sequence[str], check: CheckAll, world_size: int | None = None) -> LoadedConfig:
    """Read, merge, override, convert and check a configuration.

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
    overrides, problems = parse_flags(argv)
    path = _config_file(overrides, problems)
    if path is None:
        raise_problems(problems)
        raise AssertionError("a missing file is a problem")
    files = _read_with_extends(path)
    config, conversion = convert(_with_overrides(files.tree, overrides, problems))
    problems += [*files.problems, *conversion.problems]
    if not files.problems and "job.extends" not in conversion.suspects:  # a file that was not read might set the rest
        context = CheckContext(conversion.origins, conversion.suspects, Origin(str(path)), world_size)
        problems += check(config, context)
    raise_problems(problems)
    origins = {**conversion.origins, **store_path_origins(config, conversion.origins)}
    return LoadedConfig(resolve_store_names(config), origins, tuple(files.paths))


def _config_file(overrides: Sequence[Override], problems: list[ConfigProblem]) -> Path | None:
    """The file named on the command line; without one, a problem that lists the files there are."""
    given = [override.text for override in overrides if override.path == _CONFIG_FILE]
    found = sorted(str(path) for path in Path("train_configs").glob("*.toml"))
    expected = "the path of a TOML file" + (f", such as {', '.join(found)}" if found else "")
    if not given or not given[-1]:
        expected = f"{CONFIG_FILE_FLAG} with {expected}"
        problems.append(ConfigProblem(COMMAND_LINE, "", f"no {CONFIG_FILE_FLAG}", expected))
        return None
    path = Path(given[-1])
    if os.path.isfile(path):  # never raises, as for a name that is too long
        return path
    what = f'"{path}", which is not a file' if os.path.exists(path) else f'no file "{path}"'
    near = nearest_name(str(path), found)
    problems.append(ConfigProblem(COMMAND_LINE, CONFIG_FILE_FLAG, what, expected, near))
    return None


def _with_overrides(tree: TableNode, overrides: Sequence[Override], problems: list[ConfigProblem]) -> TableNode:
    """The tree with every flag applied but that of the file; of equal flags the last one wins."""
    for override in overrides:
        if override.path == _CONFIG_FILE:
            continue
        outcome = _EXTENDS_AS_FLAG if override.path == _EXTENDS else apply_override(tree, override)
        if isinstance(outcome, ConfigProblem):
            problems.append(outcome)
        else:
            tree = outcome
    return tree


@dataclass
class _MergedFiles:
    """A file and all it extends, merged; after a problem, those that could be read."""

    tree: TableNode = field(default_factory=lambda: TableNode({}, Origin()))
    paths: list[Path] = field(default_factory=list)
    problems: list[ConfigProblem] = field(default_factory=list)


def _read_with_extends(path: Path) -> _MergedFiles:
    files = _MergedFiles()
    _add_file(path, (), files)
    return files


def _add_file(path: Path, extended_by: tuple[Path, ...], files: _MergedFiles) -> None:
    """Merge what the file extends, then the file; `extended_by` is the chain of files that led to it."""
    tree = read_toml(path)
    if isinstance(tree, ConfigProblem):
        files.problems.append(tree)
        return
    chain = (*extended_by, path)
    for node in _extends_of(tree):
        extended = _extended_file(node, chain)
        if isinstance(extended, ConfigProblem):
            files.problems.append(extended)
        else:
            _add_file(extended, chain, files)
    files.tree = merge(files.tree, without_key(tree, *_EXTENDS))
    files.paths.append(path)


def _extends_of(tree: TableNode) -> tuple[Node, ...]:
    """The values of `[job] extends`, one or several."""
    job = tree.entries.get("job")
    node = job.entries.get("extends") if isinstance(job, TableNode) else None
    if node is None:
        return ()
    return node.items if isinstance(node, ArrayNode) else (node,)


def _extended_file(node: Node, chain: tuple[Path, ...]) -> Path | ConfigProblem:
    """The file that one value of `extends` names, in the last file of the chain."""
    if not (isinstance(node, LeafNode) and isinstance(node.value, str)):
        expected = "the path of a TOML file, or a list of them"
        return ConfigProblem(node.origin, "job.extends", describe_node(node), expected)
    path = chain[-1].parent / node.value
    if not os.path.isfile(path):
        near = nearest_name(path.name, (other.name for other in path.parent.glob("*.toml")))
        expected = "a TOML file, relative to the one that extends it"
        return ConfigProblem(node.origin, "job.extends", f'no file "{path}"', expected, near)
    if path.resolve() in {file.resolve() for file in chain}:
        cycle = " -> ".join(str(file) for file in [*chain, path])
        return ConfigProblem(node.origin, "job.extends", f"a cycle: {cycle}", "a chain of files that ends")
    return path
