"""Packing on lengths alone: windows cover every token once; best-fit keeps documents whole and packs full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_speech.data.packing import best_fit, documents_in_window, num_best_fit


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 60), st.data())
def test_windows_cover_every_token_of_every_document_once_and_in_order(lengths, window, data) -> None:
    ends = np.cumsum(lengths).tolist()
    found = []
    for start in range(0, ends[-1], window):
        stop = min(start + window, ends[-1])
        first, end = documents_in_window(ends, start, stop)
        for i in range(first, end):
            begin = ends[i] - lengths[i]
            tokens = range(max(start, begin), min(stop, ends[i]))
            assert tokens, "a document without a token in the window"
            found += [(i, token - begin) for token in tokens]
    assert found == [(i, token) for i, length in enumerate(lengths) for token in range(length)]


def slow_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """The rule in its plainest words: the fullest pack that still takes the document."""
    packs: list[list[int]] = []
    for length in lengths:
        fitting = [pack for pack in packs if sum(pack) + length <= capacity]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            packs.append([length])
    return packs


falling_lengths = st.lists(st.integers(1, 64), max_size=80).map(lambda lengths: sorted(lengths, reverse=True))


@given(falling_lengths)
def test_best_fit_fills_packs_as_the_plain_rule_does(lengths: list[int]) -> None:
    """Which of two equally full packs takes a document is free; how full packs become is not."""
    pack_of, num_packs = best_fit(lengths, 64)
    filled = np.bincount(pack_of, weights=lengths, minlength=num_packs) if lengths else np.zeros(0)
    assert sorted(filled) == sorted(sum(pack) for pack in slow_best_fit(lengths, 64))


@given(falling_lengths, st.randoms())
def test_packs_are_counted_as_best_fit_fills_them(lengths: list[int], random) -> None:
    expected = best_fit(lengths, 64)[1]
    random.shuffle(lengths)
    assert num_best_fit(np.array(lengths, np.int64), 64) == expected


@given(falling_lengths)
def test_best_fit_never_overfills_and_leaves_no_document_out(lengths: list[int]) -> None:
    pack_of, num_packs = best_fit(lengths, 64)
    assert len(pack_of) == len(lengths)
    filled = np.bincount(pack_of, weights=lengths, minlength=num_packs) if lengths else np.zeros(0)
    assert np.all((filled > 0) & (filled <= 64))


@pytest.mark.parametrize("seed", range(3))
def test_fill_on_realistic_lengths_is_above_99_percent(seed: int) -> None:
    lengths = np.random.default_rng(seed).lognormal(6.0, 0.6, 4_096).clip(40, 2_040).astype(int)
    _, num_packs = best_fit(sorted(lengths.tolist(), reverse=True), 2_048)
    assert lengths.sum() / (num_packs * 2_048) > 0.99
