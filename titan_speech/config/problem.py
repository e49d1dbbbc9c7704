"""What is wrong with a configuration, and the one message that says it.

In: findings of checks, which name keys, and problems, which name file and line. Out: one `ConfigError`, sorted by file
and line; each entry has its place, what was found, what was expected, and the nearest valid name.

Trade-off: every step continues after a problem, so that one start reports all of them; what a later check would report
only because of an earlier problem is left out (`preflight/config_checks.py`).

Secrets are removed from all of it (utils/printable.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from titan_speech.errors import ConfigError
from titan_speech.utils.printable import one_line, redact

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a value was written: in a file, on the command line, or (neither of them) nowhere, as it is a default."""

    file: str | None = None
    line: int | None = None
    command_line: bool = False

    @property
    def is_default(self) -> bool:
        return self.file is None and not self.command_line

    def __str__(self) -> str:
        if self.command_line:
            return "command line"
        if self.file is None:
            return "default"
        return self.file if self.line is None else f"{self.file}:{self.line}"


DEFAULT = Origin()
COMMAND_LINE = Origin(command_line=True)


@dataclass(frozen=True)
class ConfigProblem:
    """One line of the error, with its place; `nearest` is the valid name that was most likely meant."""

    origin: Origin
    key: str
    found: str
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return one_line(redact(f"{self.origin}: {key}{_found_and_expected(self)}"))

    @property
    def sort_key(self) -> tuple[bool, str, int]:
        return self.origin.command_line, self.origin.file or "", self.origin.line or 0


@dataclass(frozen=True)
class Finding:
    """What a check found, before its place in a file is known.

    Attributes:
        keys: all the keys that the check read (`data.source.0.share`), the one to blame first.
    """

    keys: tuple[str, ...]
    found: str
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        return f"{self.keys[0]}: {_found_and_expected(self)}"


def _found_and_expected(entry: ConfigProblem | Finding) -> str:
    hint = f"; did you mean {entry.nearest}?" if entry.nearest else ""
    return f"found {entry.found}; expected {entry.expected}{hint}"


def dotted(path: KeyPath) -> str:
    """`("data", "source", 0, "share")` as people write it: `data.source.0.share`."""
    return ".".join(str(part) for part in path)


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest in spelling, if one is close at all."""
    by_folded = {candidate.lower().replace("-", "_"): candidate for candidate in valid}
    matches = get_close_matches(name.lower().replace("-", "_"), by_folded, n=1, cutoff=0.55)
    return by_folded[matches[0]] if matches else None


def one_of(names: Iterable[str]) -> str:
    """A list of choices for `expected`."""
    return "one of " + ", ".join(names)


def raise_problems(problems: Sequence[ConfigProblem]) -> None:
    """Raise one `ConfigError` naming every problem; do nothing without problems."""
    if not problems:
        return
    unique = sorted(dict.fromkeys(problems), key=lambda problem: problem.sort_key)
    count = "1 problem" if len(unique) == 1 else f"{len(unique)} problems"
    raise ConfigError("\n  ".join([f"{count} in the configuration:", *map(str, unique)]))
