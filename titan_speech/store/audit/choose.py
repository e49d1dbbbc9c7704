"""Which samples are looked at: N of a store, drawn once from a seed.

In: a store, N and a seed. Out: for each part some shards and samples of them. Every part has the same claim, and what
a small part does not fill goes to the larger ones, so that a language of 200 samples is judged as surely as one of 20
M. The samples of a part lie in shuffled order, so a shard is itself a random draw: a part is read from at most four
of its shards, and an audit of 1,250 shards reads some 12 GB of codes and not 160.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from titan_speech.errors import DataError
from titan_speech.store.part import Part
from titan_speech.store.store import Store

MAX_SHARDS_PER_PART = 4


@dataclass(frozen=True)
class ChosenShard:
    """Samples of one shard; `rows` are ascending positions in it, `first` is its first sample's number in the part."""

    shard: int
    first: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ChosenPart:
    """What is looked at of one part."""

    part: Part
    shards: tuple[ChosenShard, ...]

    @property
    def num_samples(self) -> int:
        return sum(len(shard.rows) for shard in self.shards)


def choose(store: Store, num_samples: int, seed: int) -> list[ChosenPart]:
    """Equal store, number and seed give equal samples."""
    parts = [part for part in store.parts if part.num_samples]
    if num_samples < len(parts):
        raise DataError(
            f"--samples {num_samples} cannot cover the {len(parts)} parts of {store.path}; give at least {len(parts)} "
            "(10,000 is usual)"
        )
    quotas = fair_quotas([part.num_samples for part in parts], num_samples)
    return [_choose_part(part, quota, seed) for part, quota in zip(parts, quotas, strict=True)]


def fair_quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Equal quotas, none above its size; the rest of a division goes to the first of the largest."""
    quotas = [0] * len(sizes)
    left = min(total, sum(sizes))
    for place, i in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        quotas[i] = min(sizes[i], left // (len(sizes) - place))
        left -= quotas[i]
    return quotas


def _choose_part(part: Part, quota: int, seed: int) -> ChosenPart:
    rng = np.random.Generator(np.random.Philox(xxhash.xxh3_64_intdigest(part.name.encode(), seed)))
    shards = _enough_shards(part, quota, rng)
    sizes = [part.info.shards[shard].num_samples for shard in shards]
    drawn = np.sort(rng.choice(sum(sizes), quota, replace=False))
    return ChosenPart(part, tuple(_split(part, shards, sizes, drawn.tolist())))


def _enough_shards(part: Part, quota: int, rng: np.random.Generator) -> list[int]:
    """At most four, unless the quota needs more."""
    chosen: list[int] = []
    for shard in rng.permutation(len(part.info.shards)).tolist():
        enough = sum(part.info.shards[s].num_samples for s in chosen) >= quota
        if enough and len(chosen) >= MAX_SHARDS_PER_PART:
            break
        chosen.append(shard)
    return sorted(chosen)


def _split(part: Part, shards: list[int], sizes: list[int], drawn: list[int]) -> Iterator[ChosenShard]:
    start = 0
    for shard, size in zip(shards, sizes, strict=True):
        first = sum(info.num_samples for info in part.info.shards[:shard])
        yield ChosenShard(shard, first, tuple(row - start for row in drawn if start <= row < start + size))
        start += size
