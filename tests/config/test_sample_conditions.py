"""Conditions on samples are parsed and never run; what is none is one message."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_speech.config.sample_conditions import parse_where
from titan_speech.errors import ConfigError

COLUMNS = {
    "dnsmos": np.array([3.0, 3.5, np.nan, 2.0], np.float32),
    "cps": np.array([10.0, 30.0, 12.0, 26.0], np.float32),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dnsmos >= 3", [1, 1, 0, 0]),
        ("3 <= dnsmos", [1, 1, 0, 0]),
        ("dnsmos != 3", [0, 1, 0, 1]),
        ("dnsmos >= 2.5 and cps < 25", [1, 0, 0, 0]),
        ("dnsmos < 2.5 or cps < 25", [1, 0, 1, 1]),
        ("not cps < 25", [0, 1, 0, 1]),
        ("not (cps < 25 or dnsmos > 3) and cps > -1e3", [0, 0, 0, 1]),
        ("cps < 11 or cps > 20 and dnsmos > 3", [1, 1, 0, 0]),
    ],
)
def test_a_condition_holds_where_it_says(text: str, expected: list[int]) -> None:
    condition = parse_where(text)
    assert condition.holds(COLUMNS).astype(int).tolist() == expected
    assert parse_where(condition.text).text == condition.text


@pytest.mark.parametrize(
    "text",
    [
        "", "dnsmos", "dnsmos >", "dnsmos > cps", "3 > 2", "dnsmos = 3", "dnsmos > 3 cps < 2", "(dnsmos > 3", "and",
        "dnsmos > 3)", "__import__('os')", "dnsmos.real > 3", "dnsmos > 3; x", "not", "1 < dnsmos < 3", "(" * 30,
        "not " * 30 + "a > 1", "a > 1 or " * 200 + "a > 1",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match="where"):
        parse_where(text)


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_one_message(text: str) -> None:
    with suppress(ConfigError):
        parse_where(text).holds({name: COLUMNS["cps"] for name in parse_where(text).columns})
