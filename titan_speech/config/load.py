"""The one entry: words of the command line in, a checked configuration out.

In: `["--job.config_file", "train_configs/demo.toml", "--training.seq_len", "1024"]`. Out: `LoadedConfig`: the
configuration, where each value came from, and the files read, or one `ConfigError` with every problem.

World size is not part of a configuration: it is only used to check the parallel degrees when it is known.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_speech.config.check import Check, Context, check
from titan_speech.config.convert import convert
from titan_speech.config.extends import read_chain
from titan_speech.config.help import help_text
from titan_speech.config.overrides import Override, apply, parse_words
from titan_speech.config.problem import COMMAND_LINE, Origin, Problem, nearest_name, raise_problems
from titan_speech.config.stores import place_origins, with_places
from titan_speech.config.tables import SpeechConfig
from titan_speech.config.tree import Table

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


def load_config(argv: Sequence[str], *, world_size: int | None = None, checks: Sequence[Check] = ()) -> LoadedConfig:
    """Read, merge, override, convert and check; `checks` are those of rooms that know more (flavors)."""
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(help_text())
        raise SystemExit(0)
    overrides, problems = parse_words(argv)
    path = _config_file(overrides, problems)
    if path is None:
        raise_problems(problems)
        raise AssertionError("a missing file is a problem")
    stack = read_chain(path)
    converted = convert(_overridden(stack.tree, overrides, problems))
    findings = converted.findings
    problems += [*stack.problems, *findings.problems]
    if not stack.problems and "job.extends" not in findings.suspects:  # an unread file might have said more
        known = Context(findings.origins, findings.suspects, Origin(str(path)), world_size)
        problems += check(converted.config, known, checks)
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
