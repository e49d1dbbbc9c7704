"""Order of slots: right at every prefix for streams, sources and languages, and found in constant time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titan_speech.data.order import (
    CYCLE_SLOTS,
    UNITS_PER_PACK,
    SlotOrder,
    permutation,
    round_shares_to_units,
    round_table,
    slot_order,
)

POOL = np.array([0.45, 0.15, *np.linspace(0.02, 0.06, 10)])
POOL /= POOL.sum()
RECIPES = {
    "S1": [0.8 * POOL, 0.1 * POOL, 0.1 * POOL**0.5 / (POOL**0.5).sum()],
    "S2": [0.6 * POOL, 0.35 * np.full(12, 1 / 12), 0.05 * POOL],
    "SFT": [
        0.65 * POOL,
        np.r_[0.2, np.zeros(11)],
        0.1 * np.r_[np.zeros(2), np.full(10, 0.1)],
        0.05 * np.r_[0, np.full(11, 1 / 11)],
    ],
}


def random_table(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    num_sources, num_languages = int(rng.integers(2, 7)), int(rng.integers(5, 13))
    share_R = rng.dirichlet(np.full(num_sources, 3.0))
    table = np.stack([share * rng.dirichlet(np.full(num_languages, 0.7)) for share in share_R])
    return table / table.sum()


TABLES = {name: np.stack(rows) for name, rows in RECIPES.items()} | {
    f"random {seed}": random_table(seed) for seed in range(6)
}


def ordered(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, SlotOrder]:
    row_N, column_N = np.nonzero(table)
    return row_N, column_N, slot_order(row_N, column_N, table[row_N, column_N])


@pytest.mark.parametrize("name", TABLES)
def test_every_prefix_is_within_two_packs_of_each_stream_source_and_language(name: str) -> None:
    table = TABLES[name]
    row_N, column_N, order = ordered(table)
    slots_M = np.arange(1, CYCLE_SLOTS + 1)
    lines = [(order.stream_M == i, table[row_N[i], column_N[i]]) for i in range(len(row_N))]
    lines += [(row_N[order.stream_M] == r, table[r].sum()) for r in range(len(table))]
    lines += [(column_N[order.stream_M] == c, table[:, c].sum()) for c in range(table.shape[1])]
    for is_there_M, share in lines:
        assert np.abs(np.cumsum(is_there_M) - share * slots_M).max() < 2


@pytest.mark.parametrize("name", TABLES)
def test_a_cycle_holds_exactly_the_quotas(name: str) -> None:
    _, _, order = ordered(TABLES[name])
    assert np.bincount(order.stream_M, minlength=len(order.quotas)).tolist() == list(order.quotas)
    assert sum(order.quotas) == CYCLE_SLOTS


def test_each_stream_reads_its_packs_in_turn_across_cycles() -> None:
    _, _, order = ordered(TABLES["SFT"])
    next_pack = dict.fromkeys(range(len(order.quotas)), 0)
    for slot in range(2 * CYCLE_SLOTS + 1_000):
        stream, j = order.locate(slot)
        assert j == next_pack[stream]
        next_pack[stream] += 1


def test_slot_a_billion_follows_from_whole_cycles() -> None:
    _, _, order = ordered(TABLES["S1"])
    cycles, i = divmod(10**9, CYCLE_SLOTS)
    stream, j = order.locate(10**9)
    assert stream == order.stream_M[i]
    assert j == cycles * order.quotas[stream] + np.count_nonzero(order.stream_M[:i] == stream)


def test_a_stream_below_one_pack_a_cycle_is_never_read_and_disturbs_nothing() -> None:
    table = np.array([[0.5, 0.5 - 1e-7, 1e-7]])
    _, _, order = ordered(table)
    assert order.quotas == (32_768, 32_768, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 12), st.floats(0, 0.9))
def test_quotas_round_cells_sources_languages_and_total_up_or_down(seed, num_rows, num_columns, gaps) -> None:
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(num_rows * num_columns, 0.5)).reshape(num_rows, num_columns)
    table[rng.random(table.shape) < gaps] = 0
    table[0, 0] += 1e-3
    table /= table.sum()
    units = round_shares_to_units(table)
    quotas = round_table(units)
    assert quotas.sum() == CYCLE_SLOTS
    for axis in (None, 0, 1, (0, 1)):
        exact = units if axis is None else units.sum(axis)
        rounded = quotas if axis is None else quotas.sum(axis)
        assert np.all((rounded == exact // UNITS_PER_PACK) | (rounded == -(-exact // UNITS_PER_PACK)))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.integers(0, 3_000))
def test_a_permutation_holds_each_index_once_and_follows_from_its_key(key: str, n: int) -> None:
    order = permutation(key, n)
    assert np.sort(order).tolist() == list(range(n))
    assert np.array_equal(order, permutation(key, n))


def test_permutations_of_different_keys_are_uniform() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for key in range(4_800):
        order = tuple(permutation(f"key/{key}", 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    chi_square = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_square < 53  # 23 degrees of freedom: 99.96 %


def test_neighbours_do_not_stay_neighbours() -> None:
    order = permutation("neighbours", 4_096)
    assert sum(abs(a - b) == 1 for a, b in pairwise(order.tolist())) < 12  # 2 expected


def test_permutations_are_the_same_on_every_machine_and_numpy() -> None:
    """A change here changes the data order of every run: raise ORDER_VERSION with it."""
    assert permutation("0/speech/en/groups/0", 8).tolist() == [3, 0, 1, 6, 5, 7, 2, 4]
    assert int((permutation("golden", 4_096) * np.arange(4_096)).sum()) == 17_110_621_596
