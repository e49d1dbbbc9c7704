"""Token shares of every source and language: both margins of the table, solved once.

In: source shares, language rules, what the stores hold, and the token budget. Out: one share of the run's tokens per
(source, language) cell. They add up to the shares of the sources and keep every floor, cap, pin and `max_epochs`.

The desired shares are `num_tokens ** alpha` inside a source (alpha 1 without a rule: in proportion to size). A rule
with alpha over several sources desires it for the pool's languages together. The solution is the nearest to that in
relative entropy among all shares that keep the limits, first for the languages of pools, then for single cells. With
one margin this is `clip(c * num_tokens ** alpha, floor, cap)`, with two it is raking with bounds. A stage of 12
languages x 6 sources solves in 110 ms. Limits that cannot all hold are an error that names those that contradict each
other: the limits with a price when all may be exceeded (a linear program).

A language rule speaks of shares of its pool (the cells of its sources), a `Limit` of shares of the whole run.

Shapes: N cells, R sources, L limits, K terms of the entropy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from titan_speech.config.schema_data import OTHER_LANGUAGES, SHARE_TOLERANCE, LanguageRuleConfig, SourceConfig
from titan_speech.data.mixture_solver import Point, ShareProblem, minimize
from titan_speech.errors import ConfigError


@dataclass(frozen=True)
class StreamSize:
    """What one source holds of one language."""

    source: str
    language: str
    num_tokens: int
    """Tokens per epoch, template tokens included, padding and dropped samples not."""
    mean_fill: float = 1.0
    """Part of a pack that is not padding."""


@dataclass(frozen=True)
class Limit:
    """The cells selected by `cell_N` together get at least `low` and at most `high` of the run's tokens."""

    text: str
    """How messages name it."""
    cell_N: NDArray[np.bool_]
    low: float = 0.0
    high: float = np.inf


@dataclass(frozen=True)
class Pool:
    """The cells one rule covers."""

    name: str
    rule: LanguageRuleConfig
    share: float
    """Share of the run's tokens."""
    cell_N: NDArray[np.bool_]
    languages: tuple[str, ...]

    def cells_of(self, language: str, sizes: Sequence[StreamSize]) -> NDArray[np.bool_]:
        return self.cell_N & np.array([size.language == language for size in sizes])


def pool_of(index: int, rule: LanguageRuleConfig, sources: Sequence[SourceConfig], sizes: Sequence[StreamSize]) -> Pool:
    """The pool of a rule.

    Raises:
        ConfigError: the rule names a language that its sources do not hold.
    """
    names = set(rule.sources) or {source.name for source in sources}
    cell_N = np.array([size.source in names for size in sizes])
    languages = tuple(sorted({size.language for size in sizes if size.source in names}))
    name = f"data.language_rule {index} ({', '.join(rule.sources) or 'all sources'})"
    for kind, limits in (("floor", rule.floor), ("cap", rule.cap), ("pin", rule.pin)):
        foreign = sorted(set(limits) - set(languages) - {OTHER_LANGUAGES})
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
            yield Limit(_limit_text(pool, "pin", language, share), cell_N, share * pool.share, share * pool.share)
            continue
        floor, cap = _limit(rule.floor, language, 0.0), _limit(rule.cap, language, 1.0)
        if floor > 0:
            yield Limit(_limit_text(pool, "floor", language, floor), cell_N, low=floor * pool.share)
        if cap < 1:
            yield Limit(_limit_text(pool, "cap", language, cap), cell_N, high=cap * pool.share)


def _limit_text(pool: Pool, kind: str, language: str, share: float) -> str:
    return f"{pool.name}: {kind} {language} = {share:g} of the pool, which has {pool.share:.4g} of the run"


def _limit(limits: Mapping[str, float], language: str, default: float) -> float:
    return limits.get(language, limits.get(OTHER_LANGUAGES, default))


def epoch_limits(sources: Sequence[SourceConfig], sizes: Sequence[StreamSize], total_tokens: int) -> Iterator[Limit]:
    """`max_epochs` bounds every language of its source by the tokens it holds."""
    by_name = {source.name: source for source in sources}
    for i, size in enumerate(sizes):
        max_epochs = by_name[size.source].max_epochs
        if max_epochs is not None:
            high = max_epochs * size.num_tokens / total_tokens
            text = (
                f"data.source {size.source}: max_epochs = {max_epochs:g} allows {size.language} at most {high:.4g} "
                f"of the run ({max_epochs:g} x {size.num_tokens:,} of {total_tokens:,} tokens)"
            )
            yield Limit(text, np.arange(len(sizes)) == i, 0.0, high)


LIMIT_TOLERANCE = 2e-8  # added to every limit, so that an interior exists if pins and limits just meet

Shares = dict[tuple[str, str], float]


def solve_mixture(
    sources: Sequence[SourceConfig],
    rules: Sequence[LanguageRuleConfig],
    sizes: Sequence[StreamSize],
    total_tokens: int,
) -> Shares:
    """Share of the run's tokens for every (source, language) of `sizes`.

    Raises:
        ConfigError: shares do not add up to 1, a source is empty, or limits contradict each other.
    """
    _check_sources(sources, sizes)
    pools = [pool_of(index, rule, sources, sizes) for index, rule in enumerate(rules)]
    limits = [limit for pool in pools for limit in language_limits(pool, sizes)]
    limits += epoch_limits(sources, sizes, total_tokens)
    desired_N = _desired_shares(sources, sizes, pools)
    feasible_N = _feasible_shares(sources, sizes, limits, desired_N)
    share_N = _nearest_shares(sources, sizes, pools, limits, desired_N, feasible_N)
    return {(size.source, size.language): float(x) for size, x in zip(sizes, share_N, strict=True)}


def pack_shares(shares: Shares, sizes: Sequence[StreamSize]) -> NDArray[np.float64]:
    """Shares of packs that give these shares of tokens: each is divided by how full the stream's packs are."""
    share_N = np.array([shares[size.source, size.language] / size.mean_fill for size in sizes])
    return share_N / share_N.sum()


def _check_sources(sources: Sequence[SourceConfig], sizes: Sequence[StreamSize]) -> None:
    total = sum(source.share for source in sources)
    if abs(total - 1) > SHARE_TOLERANCE:
        parts = " + ".join(f"{source.share:g} ({source.name})" for source in sources)
        raise ConfigError(f"data.source: shares add up to {total:.6g}, expected 1: {parts}")
    filled = {size.source for size in sizes if size.num_tokens > 0}
    empty = [source.name for source in sources if source.name not in filled]
    if empty:
        raise ConfigError(f"data.source {', '.join(empty)}: no samples; check datasets, languages, task and transcript")


def _source_matrix(sources: Sequence[SourceConfig], sizes: Sequence[StreamSize]) -> NDArray[np.float64]:
    return np.array([[size.source == source.name for size in sizes] for source in sources], np.float64)


def _desired_shares(
    sources: Sequence[SourceConfig], sizes: Sequence[StreamSize], pools: Sequence[Pool]
) -> NDArray[np.float64]:
    """Shares without limits: each source's share over its languages by num_tokens ** alpha."""
    weight_N = np.array([float(size.num_tokens) for size in sizes])
    for pool in pools:
        alpha = pool.rule.alpha
        if alpha is None:
            continue
        for language in pool.languages:
            cell_N = pool.cells_of(language, sizes)
            weight_N[cell_N] *= weight_N[cell_N].sum() ** (alpha - 1)
    source_RN = _source_matrix(sources, sizes)
    share_R = np.array([source.share for source in sources]) / sum(source.share for source in sources)
    return source_RN.T @ (share_R / (source_RN @ weight_N)) * weight_N


def _pool_targets(
    pools: Sequence[Pool], sizes: Sequence[StreamSize]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of cells and their desired shares, for rules with alpha over several sources."""
    num_tokens_N = np.array([float(size.num_tokens) for size in sizes])
    rows, targets = [], []
    for pool in pools:
        if pool.rule.alpha is None or len({s.source for s, on in zip(sizes, pool.cell_N, strict=True) if on}) < 2:
            continue
        cells_KN = [pool.cells_of(language, sizes) for language in pool.languages]
        weight_K = np.array([num_tokens_N[cell_N].sum() ** pool.rule.alpha for cell_N in cells_KN])
        rows += cells_KN
        targets += list(pool.share * weight_K / weight_K.sum())
    return np.array(rows, np.float64).reshape(-1, len(sizes)), np.array(targets, np.float64)


def _nearest_shares(
    sources: Sequence[SourceConfig],
    sizes: Sequence[StreamSize],
    pools: Sequence[Pool],
    limits: Sequence[Limit],
    desired_N: NDArray[np.float64],
    feasible_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Shares nearest to the desired ones that keep all limits, starting from feasible shares."""
    share_R = np.array([source.share for source in sources])
    source_RN = _source_matrix(sources, sizes)
    bound_LN, bound_L = _bounds(limits, len(sizes))
    cells = ShareProblem(
        cost_N=np.zeros(len(sizes)),
        terms_KN=np.eye(len(sizes)),
        targets_K=desired_N,
        equal_EN=source_RN,
        equal_E=share_R / share_R.sum(),
        limits_LN=np.vstack([bound_LN, -np.eye(len(sizes))]),
        limits_L=np.r_[bound_L + LIMIT_TOLERANCE, np.zeros(len(sizes))],
    )
    pool_KN, target_K = _pool_targets(pools, sizes)
    if len(target_K):
        feasible_N = minimize(replace(cells, terms_KN=pool_KN, targets_K=target_K), feasible_N).x_N
        fixed_LN, fixed_L = np.vstack([pool_KN, -pool_KN]), np.r_[pool_KN @ feasible_N, -pool_KN @ feasible_N]
        limits_LN, limits_L = (
            np.vstack([cells.limits_LN, fixed_LN]),
            np.r_[cells.limits_L, fixed_L + LIMIT_TOLERANCE],
        )
        cells = replace(cells, limits_LN=limits_LN, limits_L=limits_L)
    share_N = minimize(cells, feasible_N).x_N
    return share_N * (source_RN.T @ (share_R / share_R.sum() / (source_RN @ share_N)))


def _bounds(limits: Sequence[Limit], num_cells: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Limits as `G x <= h`, without those that always hold."""
    rows, values = [], []
    for limit in limits:
        if limit.high < 1:
            rows.append(limit.cell_N.astype(np.float64))
            values.append(limit.high)
        if limit.low > 0:
            rows.append(-limit.cell_N.astype(np.float64))
            values.append(-limit.low)
    return np.array(rows).reshape(-1, num_cells), np.array(values)


def _feasible_shares(
    sources: Sequence[SourceConfig],
    sizes: Sequence[StreamSize],
    limits: Sequence[Limit],
    desired_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Shares inside all limits.

    Raises:
        ConfigError: no shares keep all limits; the message names the gap and the limits that contradict each other.
    """
    bound_LN, bound_L = _bounds(limits, len(sizes))
    point, rows = _least_violation(sources, sizes, bound_LN, bound_L, desired_N)
    missing = float(point.x_N[len(sizes) :].sum())
    if missing <= SHARE_TOLERANCE:
        return point.x_N[: len(sizes)]
    priced = point.limit_L[: len(bound_L)] > 1e-3
    sides = [limit for limit in limits for side in (limit.high < 1, limit.low > 0) if side]
    named = dict.fromkeys(limit.text for limit, on in zip(sides, priced, strict=True) if on)
    named |= dict.fromkeys(
        f"data.source {source.name}: share = {source.share:g}, "
        f"in {', '.join(size.language for size in sizes if size.source == source.name)}"
        for source, price in zip(sources, rows, strict=True)
        if abs(price) > 1e-3
    )
    raise ConfigError(
        f"the limits of the mixture cannot all hold; they are {missing:.4g} of the run's tokens apart. "
        "Raise a cap or max_epochs, lower a floor, pin or share, or add data; these contradict each other:\n"
        + "\n".join(f"  {text}" for text in named)
    )


def _least_violation(
    sources: Sequence[SourceConfig],
    sizes: Sequence[StreamSize],
    bound_LN: NDArray[np.float64],
    bound_L: NDArray[np.float64],
    desired_N: NDArray[np.float64],
) -> tuple[Point, NDArray[np.float64]]:
    """The least total excess: a linear program over shares and one excess per limit.

    Returns:
        The solution, and the price of each source's share.
    """
    num_cells, num_limits = len(sizes), len(bound_L)
    share_R = np.array([source.share for source in sources])
    none_KN = np.zeros((0, num_cells + num_limits))
    problem = ShareProblem(
        cost_N=np.r_[np.zeros(num_cells), np.ones(num_limits)],
        terms_KN=none_KN,
        targets_K=np.zeros(0),
        equal_EN=np.hstack([_source_matrix(sources, sizes), np.zeros((len(sources), num_limits))]),
        equal_E=share_R / share_R.sum(),
        limits_LN=np.vstack([np.hstack([bound_LN, -np.eye(num_limits)]), -np.eye(num_cells + num_limits)]),
        limits_L=np.r_[bound_L, np.zeros(num_cells + num_limits)],
    )
    excess_L = np.maximum(bound_LN @ desired_N - bound_L, 0) + 0.1
    point = minimize(problem, np.r_[desired_N, excess_L])
    return point, point.equal_E
