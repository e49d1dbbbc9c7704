"""Token shares keep every limit, are nearest to what was asked, and infeasible limits are named with numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_speech.config.schema_data import LanguageRuleConfig, SourceConfig
from titan_speech.data.mixture import StreamSize, pack_shares, solve_mixture
from titan_speech.errors import ConfigError

LANGUAGES: tuple[str, ...] = ("as", "bn", "en", "gu", "hi", "kn", "ml", "mr", "or", "pa", "ta", "te")
RUN_TOKENS = 200_000_000_000
TOLERANCE = 1e-6  # of the run's tokens, 1/15 pack of a cycle


def source(name: str, share: float, max_epochs: float | None = None) -> SourceConfig:
    return SourceConfig(name=name, store="unused", task="speech", share=share, max_epochs=max_epochs)


def sizes_of(name: str, tokens: dict[str, int]) -> list[StreamSize]:
    return [StreamSize(name, language, count) for language, count in tokens.items()]


def total(shares: dict[tuple[str, str], float], *, name: str | None = None, language: str | None = None) -> float:
    return sum(x for (s, la), x in shares.items() if name in (None, s) and language in (None, la))


def clipped_powers(num_tokens: np.ndarray, alpha: float, floor: np.ndarray, cap: np.ndarray) -> np.ndarray:
    """clip(c * n ** alpha, floor, cap) that adds up to 1, by bisection on c: the one-margin answer in closed form."""
    low, high = -80.0, 80.0
    for _ in range(200):
        middle = (low + high) / 2
        is_short = np.clip(np.exp(middle) * num_tokens**alpha, floor, cap).sum() < 1
        low, high = (middle, high) if is_short else (low, middle)
    return np.clip(np.exp(high) * num_tokens**alpha, floor, cap)


@st.composite
def one_margin(draw: st.DrawFn) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Sizes, alpha, and limits that hold at some point."""
    n = draw(st.integers(2, 12))
    num_tokens = np.array(draw(st.lists(st.integers(10**3, 10**10), min_size=n, max_size=n)), float)
    point = np.array(draw(st.lists(st.floats(0.01, 1), min_size=n, max_size=n)))
    point /= point.sum()
    slack = np.array(draw(st.lists(st.floats(0.05, 1), min_size=2 * n, max_size=2 * n)))
    floor = point * (1 - slack[:n])
    cap = np.minimum(point * (1 + 5 * slack[n:]), 1.0)
    return num_tokens, draw(st.floats(0.0, 1.0)), floor, cap


@settings(max_examples=40, deadline=None)
@given(one_margin())
def test_one_margin_equals_the_clipped_powers_of_the_sizes(case) -> None:
    num_tokens, alpha, floor, cap = case
    names = LANGUAGES[: len(num_tokens)]
    limits = [dict(zip(names, map(float, side), strict=True)) for side in (floor, cap)]
    rule = LanguageRuleConfig(alpha=alpha, floor=limits[0], cap=limits[1])
    sizes = sizes_of("speech", dict(zip(names, map(int, num_tokens), strict=True)))
    shares = solve_mixture([source("speech", 1.0)], [rule], sizes, RUN_TOKENS)
    expected = clipped_powers(num_tokens, alpha, floor, cap)
    assert [shares["speech", name] for name in names] == pytest.approx(expected, abs=TOLERANCE)


@st.composite
def two_margins(draw: st.DrawFn):
    """A table of cells with limits on random pools that a hidden point keeps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_sources, num_languages = draw(st.integers(2, 5)), draw(st.integers(2, 8))
    exists = rng.random((num_sources, num_languages)) < 0.8
    exists[np.arange(num_sources), rng.integers(0, num_languages, num_sources)] = True
    point = np.where(exists, rng.dirichlet(np.full(exists.size, 0.8)).reshape(exists.shape), 0)
    point[exists & (point < 1e-4)] = 1e-4
    point /= point.sum()
    sources, sizes = [], []
    for i in range(num_sources):
        cells = {LANGUAGES[j]: int(10 ** rng.uniform(6, 11)) for j in np.flatnonzero(exists[i])}
        sizes += sizes_of(f"s{i}", cells)
        epochs = max(point[i, LANGUAGES.index(la)] * RUN_TOKENS / n for la, n in cells.items())
        sources.append(source(f"s{i}", float(point[i].sum()), epochs * 1.01 if rng.random() < 0.3 else None))
    rules = [_random_rule(rng, point, exists, draw(st.sampled_from([None, 0.5, 0.7]))) for _ in range(2)]
    return sources, [rules[0], replace(rules[1], alpha=None)], sizes


def _random_rule(rng: np.random.Generator, point: np.ndarray, exists: np.ndarray, alpha: float | None):
    members = np.flatnonzero(rng.random(len(point)) < 0.7)
    members = members if len(members) else np.array([0])
    limits: dict[str, dict[str, float]] = {"floor": {}, "cap": {}, "pin": {}}
    for j in np.flatnonzero(exists[members].any(axis=0)):
        at = float(point[members, j].sum() / point[members].sum())
        kind = rng.choice(["floor", "cap", "pin", "none"], p=[0.3, 0.3, 0.15, 0.25])
        factor = {"floor": rng.uniform(0.3, 1), "cap": rng.uniform(1, 3), "pin": 1.0}.get(kind)
        if factor is not None:
            limits[kind][LANGUAGES[j]] = min(at * factor, 1.0)
    return LanguageRuleConfig(sources=tuple(f"s{i}" for i in members), alpha=alpha, **limits)


@settings(max_examples=40, deadline=None)
@given(two_margins())
def test_two_margins_keep_every_share_floor_cap_pin_and_epoch_limit(case) -> None:
    sources, rules, sizes = case
    shares = solve_mixture(sources, rules, sizes, RUN_TOKENS)
    assert min(shares.values()) >= 0
    for table in sources:
        assert total(shares, name=table.name) == pytest.approx(table.share, abs=1e-12)
    for size in sizes:
        limit = next(table.max_epochs for table in sources if table.name == size.source)
        if limit is not None:
            assert shares[size.source, size.language] * RUN_TOKENS <= limit * size.num_tokens * (1 + 1e-5) + 2e4
    for rule in rules:
        pool = {key: x for key, x in shares.items() if key[0] in rule.sources}
        of_pool = sum(pool.values())
        for language in {key[1] for key in pool}:
            at = total(pool, language=language)
            assert at >= rule.floor.get(language, 0) * of_pool - TOLERANCE
            assert at <= rule.cap.get(language, 1) * of_pool + TOLERANCE
            assert at == pytest.approx(rule.pin.get(language, at / of_pool) * of_pool, abs=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(one_margin(), st.integers(0, 11), st.floats(1.01, 50))
def test_more_data_of_a_language_never_lowers_its_share(case, index: int, factor: float) -> None:
    num_tokens, alpha, floor, cap = case
    index %= len(num_tokens)
    names = LANGUAGES[: len(num_tokens)]
    limits = [dict(zip(names, map(float, side), strict=True)) for side in (floor, cap)]
    rule = LanguageRuleConfig(alpha=alpha, floor=limits[0], cap=limits[1])
    found = []
    for grown in (1.0, factor):
        more = num_tokens.copy()
        more[index] *= grown
        sizes = sizes_of("speech", dict(zip(names, map(int, more), strict=True)))
        found.append(solve_mixture([source("speech", 1.0)], [rule], sizes, RUN_TOKENS)["speech", names[index]])
    assert found[1] >= found[0] - TOLERANCE


def test_speech_pool_of_the_first_stage() -> None:
    tokens = {la: 10**9 * (i + 1) for i, la in enumerate(LANGUAGES)} | {"en": 10**11, "te": 10**6}
    rule = LanguageRuleConfig(alpha=0.5, cap={"en": 0.45}, pin={"hi": 0.15}, floor={"*": 0.02})
    shares = solve_mixture([source("speech", 1.0)], [rule], sizes_of("speech", tokens), RUN_TOKENS)
    assert shares["speech", "hi"] == pytest.approx(0.15, abs=TOLERANCE)
    assert shares["speech", "te"] == pytest.approx(0.02, abs=TOLERANCE)
    assert shares["speech", "ta"] / shares["speech", "bn"] == pytest.approx((11 / 2) ** 0.5, rel=1e-6)


def test_english_cap_over_all_sources_though_one_source_is_all_english() -> None:
    wild = {la: 10**9 for la in LANGUAGES} | {"en": 10**11}
    sources = [source("wild", 0.75), source("hifi", 0.25)]
    sizes = sizes_of("wild", wild) + sizes_of("hifi", {"en": 10**8})
    shares = solve_mixture(sources, [LanguageRuleConfig(cap={"en": 0.55})], sizes, RUN_TOKENS)
    assert total(shares, language="en") == pytest.approx(0.55, abs=TOLERANCE)
    assert shares["hifi", "en"] == pytest.approx(0.25, abs=TOLERANCE)
    assert shares["wild", "ta"] == pytest.approx(0.45 / 11, abs=TOLERANCE)


def test_alpha_over_a_pool_of_sources_holds_for_its_languages_together() -> None:
    sizes = sizes_of("a", {"en": 8_000, "hi": 1_000}) + sizes_of("b", {"en": 1_000, "ta": 4_000})
    sources = [source("a", 0.6), source("b", 0.4)]
    shares = solve_mixture(sources, [LanguageRuleConfig(alpha=0.5)], sizes, RUN_TOKENS)
    roots = {"en": 9_000**0.5, "hi": 1_000**0.5, "ta": 4_000**0.5}
    for language, root in roots.items():
        assert total(shares, language=language) == pytest.approx(root / sum(roots.values()), rel=1e-4)


def test_without_rules_languages_share_in_proportion_to_their_size() -> None:
    shares = solve_mixture([source("a", 1.0)], [], sizes_of("a", {"en": 300, "hi": 100}), RUN_TOKENS)
    assert shares["a", "en"] == pytest.approx(0.75)


def test_limits_that_leave_a_cell_exactly_nothing_are_met() -> None:
    sizes = sizes_of("a", {"en": 100}) + sizes_of("b", {"en": 50, "hi": 70})
    shares = solve_mixture([source("a", 0.55), source("b", 0.45)], [LanguageRuleConfig(cap={"en": 0.55})], sizes, 1_000)
    assert shares["b", "en"] == pytest.approx(0, abs=TOLERANCE)
    assert shares["b", "hi"] == pytest.approx(0.45, abs=TOLERANCE)


def test_max_epochs_bounds_a_small_language_and_the_rest_take_over() -> None:
    sizes = sizes_of("a", {"en": 10**6, "hi": 10**4})
    shares = solve_mixture([source("a", 1.0, max_epochs=3)], [LanguageRuleConfig(alpha=0.0)], sizes, 1_000_000)
    assert shares["a", "hi"] == pytest.approx(0.03, abs=TOLERANCE)
    assert shares["a", "en"] == pytest.approx(0.97, abs=TOLERANCE)


def test_contradicting_limits_are_named_with_numbers_and_innocent_ones_are_not() -> None:
    sizes = sizes_of("wild", {"en": 10**6, "hi": 10**6, "ta": 10**6}) + sizes_of("hifi", {"en": 10**6})
    rule = LanguageRuleConfig(cap={"en": 0.15}, floor={"ta": 0.1})
    with pytest.raises(ConfigError) as raised:
        solve_mixture([source("wild", 0.8), source("hifi", 0.2)], [rule], sizes, 10**6)
    message = str(raised.value)
    assert "0.05 of the run's tokens apart" in message
    assert "cap en = 0.15" in message
    assert "data.source hifi: share = 0.2" in message
    assert "floor" not in message.split("\n", 1)[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.floats(0.3, 0.97))
def test_caps_that_add_up_to_less_than_all_are_refused_with_what_is_missing(n: int, sum_of_caps: float) -> None:
    names = LANGUAGES[:n]
    rule = LanguageRuleConfig(cap={name: sum_of_caps / n for name in names})
    with pytest.raises(ConfigError) as raised:
        solve_mixture([source("a", 1.0)], [rule], sizes_of("a", dict.fromkeys(names, 10**6)), 10**6)
    assert f"{1 - sum_of_caps:.4g} of the run's tokens apart" in str(raised.value)
    assert all(f"cap {name}" in str(raised.value) for name in names)


def test_too_little_data_for_max_epochs_is_refused_with_the_tokens_there_are() -> None:
    with pytest.raises(ConfigError, match=r"max_epochs = 2 allows en at most 0\.2 of the run .2 x 100 of 1,000 tokens"):
        solve_mixture([source("a", 1.0, max_epochs=2)], [], sizes_of("a", {"en": 100}), 1_000)


def test_shares_that_do_not_add_up_are_refused() -> None:
    sizes = sizes_of("a", {"en": 1}) + sizes_of("b", {"en": 1})
    with pytest.raises(ConfigError, match=r"add up to 0\.9, expected 1: 0\.5 \(a\) \+ 0\.4 \(b\)"):
        solve_mixture([source("a", 0.5), source("b", 0.4)], [], sizes, 1_000)


def test_a_source_without_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.source b: no samples"):
        solve_mixture([source("a", 0.5), source("b", 0.5)], [], sizes_of("a", {"en": 1}), 1_000)


def test_a_rule_on_a_language_nobody_holds_is_refused() -> None:
    rule = LanguageRuleConfig(floor={"ta": 0.1})
    with pytest.raises(ConfigError, match=r"floor names ta, but its sources hold only en, hi"):
        solve_mixture([source("a", 1.0)], [rule], sizes_of("a", {"en": 5, "hi": 5}), 1_000)


def test_pack_shares_give_back_the_token_shares_whatever_the_fill() -> None:
    sizes = [StreamSize("a", "en", 10, 1.0), StreamSize("b", "en", 10, 0.8), StreamSize("b", "hi", 10, 0.95)]
    shares = {("a", "en"): 0.5, ("b", "en"): 0.3, ("b", "hi"): 0.2}
    tokens = pack_shares(shares, sizes) * [size.mean_fill for size in sizes]
    assert tokens / tokens.sum() == pytest.approx(list(shares.values()))
