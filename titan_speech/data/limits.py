"""From `[[data.language_rule]]` and `max_epochs` to limits on sums of cells.

In: the cells of the source x language table (with the tokens each holds), source shares and rules. Out: `Limit`s, each
with the words an error message needs. A rule speaks of shares of its pool; a limit of shares of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from titan_speech.config.tables import LanguageRuleTable, SourceTable
from titan_speech.errors import ConfigError

REST = "*"  # in floor and cap: every language of the pool that the table does not name and no pin fixes


@dataclass(frozen=True)
class StreamSize:
    """What one source holds of one language."""

    source: str
    language: str
    num_tokens: int
    """Tokens of an epoch, framing included, padding and dropped samples not."""
    mean_fill: float = 1.0
    """Part of a pack that is not padding."""


@dataclass(frozen=True)
class Limit:
    """The cells of `cell_N` together take at least `low` and at most `high` of the run's tokens."""

    words: str
    cell_N: NDArray[np.bool_]
    low: float = 0.0
    high: float = np.inf


@dataclass(frozen=True)
class Pool:
    """The cells one rule covers."""

    name: str
    rule: LanguageRuleTable
    share: float
    """Share of the run's tokens."""
    cell_N: NDArray[np.bool_]
    languages: tuple[str, ...]

    def cells_of(self, language: str, sizes: Sequence[StreamSize]) -> NDArray[np.bool_]:
        return self.cell_N & np.array([size.language == language for size in sizes])


def pool_of(index: int, rule: LanguageRuleTable, sources: Sequence[SourceTable], sizes: Sequence[StreamSize]) -> Pool:
    """The pool of a rule, refused if it names a language the pool does not hold."""
    names = set(rule.sources) or {source.name for source in sources}
    cell_N = np.array([size.source in names for size in sizes])
    languages = tuple(sorted({size.language for size in sizes if size.source in names}))
    name = f"data.language_rule {index} ({', '.join(rule.sources) or 'all sources'})"
    for kind, limits in (("floor", rule.floor), ("cap", rule.cap), ("pin", rule.pin)):
        foreign = sorted(set(limits) - set(languages) - {REST})
        if foreign:
            raise ConfigError(
                f"{name}: {kind} names {', '.join(foreign)}, but its sources hold only {', '.join(languages)}; "
                "take the language out of the rule or add data for it"
            )
    share = sum(source.share for source in sources if source.name in names)
    return Pool(name, rule, share, cell_N, languages)


def language_limits(pool: Pool, sizes: Sequence[StreamSize]) -> Iterator[Limit]:
    """Floors, caps and pins of one rule."""
    rule = pool.rule
    for language in pool.languages:
        cell_N = pool.cells_of(language, sizes)
        if language in rule.pin:
            share = rule.pin[language]
            yield Limit(_words(pool, "pin", language, share), cell_N, share * pool.share, share * pool.share)
            continue
        floor, cap = _limit(rule.floor, language, 0.0), _limit(rule.cap, language, 1.0)
        if floor > 0:
            yield Limit(_words(pool, "floor", language, floor), cell_N, low=floor * pool.share)
        if cap < 1:
            yield Limit(_words(pool, "cap", language, cap), cell_N, high=cap * pool.share)


def _words(pool: Pool, kind: str, language: str, share: float) -> str:
    return f"{pool.name}: {kind} {language} = {share:g} of the pool, which has {pool.share:.4g} of the run"


def _limit(limits: Mapping[str, float], language: str, default: float) -> float:
    return limits.get(language, limits.get(REST, default))


def epoch_limits(sources: Sequence[SourceTable], sizes: Sequence[StreamSize], total_tokens: int) -> Iterator[Limit]:
    """`max_epochs` bounds every language of its source by what there is of it."""
    by_name = {source.name: source for source in sources}
    for i, size in enumerate(sizes):
        max_epochs = by_name[size.source].max_epochs
        if max_epochs is not None:
            high = max_epochs * size.num_tokens / total_tokens
            words = (
                f"data.source {size.source}: max_epochs = {max_epochs:g} allows {size.language} at most {high:.4g} "
                f"of the run ({max_epochs:g} x {size.num_tokens:,} of {total_tokens:,} tokens)"
            )
            yield Limit(words, np.arange(len(sizes)) == i, 0.0, high)
