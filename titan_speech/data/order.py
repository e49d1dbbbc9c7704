"""Which stream a slot reads, and keyed permutations: the parts of data order that need no data.

In: quotas and shares of the streams; seeds and names. Out: `SlotOrder.locate(g) -> (stream, j)`: slot g reads the j-th
pack of that stream; and `permutation(key, n)`.

    c, i = divmod(g, M);  s = stream[i];  j = c * quota[s] + rank[i]

So any slot is found in constant time, and the order depends on nothing but the tables. The table of a cycle is filled
greedily: each slot goes to the stream whose cell, source and language are furthest behind their shares. Cells, sources
and languages then all stay within 1.95 packs of their share at every prefix (150 random tables of 2 to 6 sources x 5 to
12 languages; merging streams by deadline, without the margins, lets a source drift 3.9 packs, and random draws 151). It
takes 0.25 s and happens once per process. All arithmetic is on integers, so every machine builds the same table.

Quotas are whole packs: `round_table` is controlled rounding (Cox 1987, A constructive procedure for unbiased controlled
rounding, JASA 82). In: pack shares of the cells of a source x language table, which add up to 1. Out: the quota of each
cell in a cycle of M = 65,536 slots, rounded up or down, such that those of each source, of each language and of the
whole table are rounded up or down as well. The largest remainder method keeps only cells and total: the quotas of 12
languages can add up to a source total that is several packs off (2.7 measured on random tables of 2 to 6 sources x 5 to
12 languages; here always under 1). Slack cells make all margins whole, then fractions are shifted around cycles of
fractional cells until no cell is fractional: at most as many shifts as cells, 6 ms for 72 cells. Shares are first
rounded to 1/16 of a pack, so that the last bits of the solution do not reach the data order.

Shapes: M slots of a cycle, N streams, R sources (rows), C languages (columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

CYCLE_SLOTS = 65_536
UNITS_PER_PACK = 16
ORDER_VERSION = 2  # raised when the same tables would give another order
CELL_WEIGHT, MARGIN_WEIGHT = 5, 4  # of a cell's own lag, and of its source's and language's
_EXHAUSTED = -(1 << 60)


@dataclass(frozen=True)
class SlotOrder:
    """One cycle of M slots, repeated endlessly."""

    quotas: tuple[int, ...]
    """Slots per cycle of each stream."""
    stream_M: NDArray[np.int16]
    """Stream of each slot of the cycle."""
    rank_M: NDArray[np.int32]
    """How many earlier slots of the cycle have the same stream."""
    units: tuple[int, ...] = ()
    """Share of each stream in 1/16 pack per cycle; quotas and order follow from them."""

    def locate(self, slot: int) -> tuple[int, int]:
        """Stream of a slot, and which pack of that stream it reads."""
        cycle, i = divmod(slot, len(self.stream_M))
        stream = self.stream_M.item(i)
        return stream, cycle * self.quotas[stream] + self.rank_M.item(i)

    def num_packs(self, num_slots: int) -> list[int]:
        """Packs of each stream in the first `num_slots` slots."""
        cycles, rest = divmod(num_slots, len(self.stream_M))
        in_rest = np.bincount(self.stream_M[:rest], minlength=len(self.quotas)).tolist()
        return [cycles * quota + packs for quota, packs in zip(self.quotas, in_rest, strict=True)]


def table_cells(cells: Sequence[tuple[str, str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each (source, language) in the table: sources as they come, languages by name."""
    sources = list(dict.fromkeys(source for source, _ in cells))
    languages = sorted({language for _, language in cells})
    row_N = np.array([sources.index(source) for source, _ in cells])
    return row_N, np.array([languages.index(language) for _, language in cells])


def slot_order(source_N: NDArray[np.int64], language_N: NDArray[np.int64], share_N: NDArray[np.float64]) -> SlotOrder:
    """Order of streams at different cells (source, language) of the table; their pack shares add up to 1."""
    share_RC = np.zeros((source_N.max() + 1, language_N.max() + 1))
    share_RC[source_N, language_N] = share_N
    return order_of_units(source_N, language_N, round_shares_to_units(share_RC)[source_N, language_N])


def order_of_units(source_N: NDArray[np.int64], language_N: NDArray[np.int64], units_N: NDArray[np.int64]) -> SlotOrder:
    """As `slot_order`, from shares in 1/16 pack per cycle, as a phase records them."""
    units_RC = np.zeros((source_N.max() + 1, language_N.max() + 1), np.int64)
    units_RC[source_N, language_N] = units_N
    quota_N = round_table(units_RC)[source_N, language_N]
    cells = (source_N, language_N, units_N, quota_N)
    stream_M = _cycle(*(tuple(int(v) for v in cell_N) for cell_N in cells))
    return SlotOrder(tuple(int(q) for q in quota_N), stream_M, _ranks(stream_M), tuple(int(units) for units in units_N))


@lru_cache(maxsize=8)
def _cycle(
    sources: tuple[int, ...], languages: tuple[int, ...], units: tuple[int, ...], quotas: tuple[int, ...]
) -> NDArray[np.int16]:
    """Fill the cycle slot by slot; a stream that has reached its quota gets no further slots."""
    source_N, language_N, left_N = np.array(sources), np.array(languages), np.array(quotas)
    weight_NN = CELL_WEIGHT * np.eye(len(units), dtype=np.int64)
    weight_NN += MARGIN_WEIGHT * (source_N[:, None] == source_N)
    weight_NN += MARGIN_WEIGHT * (language_N[:, None] == language_N)
    gain_N = weight_NN @ np.array(units)  # what every slot adds to each stream's lag, in 1/16 pack / M
    cost_NN = weight_NN * (CYCLE_SLOTS * UNITS_PER_PACK)  # what a slot given to a stream takes off
    lag_N = np.where(left_N > 0, 0, _EXHAUSTED)
    stream_M = np.empty(CYCLE_SLOTS, np.int16)
    for i in range(CYCLE_SLOTS):
        lag_N += gain_N
        stream = lag_N.argmax()
        stream_M[i] = stream
        lag_N -= cost_NN[stream]
        left_N[stream] -= 1
        if left_N[stream] == 0:
            lag_N[stream] = _EXHAUSTED
    return stream_M


def _ranks(stream_M: NDArray[np.int16]) -> NDArray[np.int32]:
    rank_M = np.empty(len(stream_M), np.int32)
    for stream in np.unique(stream_M):
        slots = np.flatnonzero(stream_M == stream)
        rank_M[slots] = np.arange(len(slots))
    return rank_M


def permutation(key: str, n: int) -> NDArray[np.int64]:
    """Permutation of range(n) that depends on the key alone.

    Philox counters give random high bits, the index fills the low bits, and one sort of distinct numbers orders both.
    Raw Philox output is stable across numpy versions, which `Generator.permutation` does not promise. 4,096 in 0.1 ms.
    """
    bits = np.random.Philox(key=xxhash.xxh3_128_intdigest(key.encode())).random_raw(n)
    index_bits = np.uint64(max(n - 1, 1).bit_length())
    keys = ((bits >> index_bits) << index_bits) | np.arange(n, dtype=np.uint64)
    keys.sort()
    return (keys & ((np.uint64(1) << index_bits) - np.uint64(1))).astype(np.int64)


def round_shares_to_units(share_RC: NDArray[np.float64]) -> NDArray[np.int64]:
    """Shares as units of 1/16 pack that add up to a whole cycle, by largest remainder."""
    scaled_RC = share_RC * (CYCLE_SLOTS * UNITS_PER_PACK)
    units_RC = np.floor(scaled_RC).astype(np.int64)
    missing = CYCLE_SLOTS * UNITS_PER_PACK - int(units_RC.sum())
    assert 0 <= missing <= share_RC.size, f"shares add up to {share_RC.sum()}, expected 1"
    units_RC.flat[np.argsort((units_RC - scaled_RC).flat, kind="stable")[:missing]] += 1
    return units_RC


def round_table(units_RC: NDArray[np.int64]) -> NDArray[np.int64]:
    """Quotas [R, C] in packs from units of 1/16 pack: cells, rows, columns and total each rounded up or down."""
    table = _add_slack(units_RC)
    while (table % UNITS_PER_PACK).any():
        cells = _find_fractional_cycle(table % UNITS_PER_PACK != 0)
        up, down = tuple(np.array(cells[0::2]).T), tuple(np.array(cells[1::2]).T)
        shift = min((-table[up] % UNITS_PER_PACK).min(), (table[down] % UNITS_PER_PACK).min())
        table[up] += shift
        table[down] -= shift
    return table[:-1, :-1] // UNITS_PER_PACK


def _add_slack(units_RC: NDArray[np.int64]) -> NDArray[np.int64]:
    """With one more row and column of slack, so that every row and column adds up to whole packs."""
    table = np.pad(units_RC, ((0, 1), (0, 1)))
    table[:-1, -1] = -table[:-1].sum(axis=1) % UNITS_PER_PACK
    table[-1] = -table[:-1].sum(axis=0) % UNITS_PER_PACK
    assert table[-1].sum() % UNITS_PER_PACK == 0, "the total of the table is not whole packs"
    return table


def _find_fractional_cycle(fractional_RC: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Cells of a closed path that alternates between rows and columns.

    A row or column with one fractional cell has two, since it adds up to whole packs: the path never ends.
    """
    num_rows = fractional_RC.shape[0]
    path = [int(np.argmax(fractional_RC.any(axis=1)))]  # nodes: rows, then columns after them
    while True:
        node = path[-1]
        line = fractional_RC[node] if node < num_rows else fractional_RC[:, node - num_rows]
        offset = num_rows if node < num_rows else 0
        last = path[-2] if len(path) > 1 else -1
        step = next(int(n) + offset for n in np.flatnonzero(line) if n + offset != last)
        if step in path:
            loop = [*path[path.index(step) :], step]
            return [(min(a, b), max(a, b) - num_rows) for a, b in pairwise(loop)]
        path.append(step)
