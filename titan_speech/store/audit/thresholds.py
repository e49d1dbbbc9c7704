"""Which share of each finding is too much: the defaults, a TOML file over them, options over both.

In: a TOML file with rules as keys, and tables of them for single languages. Out: `Thresholds`.

    duration = 0.02

    [language.en]
    duplicate-transcript = 0.5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import tomli

from titan_speech.errors import DataError
from titan_speech.store.audit.rules import RULE_NAMES, RULES


@dataclass(frozen=True)
class Thresholds:
    """Largest allowed share by rule, and by language where one differs."""

    shares: Mapping[str, float] = field(default_factory=lambda: {rule.name: rule.max_share for rule in RULES})
    of_language: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def share(self, rule: str, language: str) -> float:
        return self.of_language.get(language, {}).get(rule, self.shares[rule])


def read_thresholds(file: Path | None, options: Mapping[str, float]) -> Thresholds:
    """`options` hold for every language, also for those the file names."""
    defaults = Thresholds()
    if file is None:
        return Thresholds({**defaults.shares, **options})
    content = _content(file)
    languages = content.pop("language", {})
    if not isinstance(languages, dict) or not all(isinstance(table, dict) for table in languages.values()):
        raise DataError(f"{file}: language must be tables such as [language.hi]")
    of_language = {
        name: {**_shares(table, f"{file}, [language.{name}]"), **options} for name, table in languages.items()
    }
    return Thresholds({**defaults.shares, **_shares(content, str(file)), **options}, of_language)


def _content(file: Path) -> dict[str, object]:
    try:
        return tomli.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"thresholds {file} cannot be read: {error}") from error
    except tomli.TOMLDecodeError as error:
        raise DataError(f"thresholds {file} is not TOML: {error}; expected lines such as duration = 0.01") from error


def _shares(table: Mapping[str, object], where: str) -> dict[str, float]:
    shares = {}
    for name, value in table.items():
        if name not in RULE_NAMES:
            near = get_close_matches(name, RULE_NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(RULE_NAMES)}"
            raise DataError(f"{where}: no check is called {name!r}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(f"{where}: {name} is {value!r}; expected a share from 0 to 1, such as 0.01 for 1 %")
        shares[name] = float(value)
    return shares
