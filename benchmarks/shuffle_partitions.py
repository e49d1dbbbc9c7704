"""How many nodes need each shard, and how often a node downloads it again with a small cache; JSON on stdout.

    python benchmarks/shuffle_partitions.py [--documents 400000] [--nodes 1,2,3,8]

In: nothing; streams of twelve languages by size, with as many blocks as 80 M samples have, but 16 documents per block,
so that a whole epoch is read in a minute. Out, for each number of nodes: shards that the nodes touch in one epoch of
the data, all nodes together, over the number of shards (1 is the minimum), the same with slots dealt to nodes
round-robin, the spread of partition sizes, and the downloads per shard for caches that hold a part of the shards a node
touches.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.record import rounded
from titan_speech.data.order import slot_order
from titan_speech.data.packing import Blocks, PackingRules, split_counts, whole_counts
from titan_speech.data.shuffle_partitions import PartitionedStream, SlotLocality
from titan_speech.data.slots import StepShape
from titan_speech.data.streams import SplitStream, WholeStream

SEQ_LEN, PACKS_PER_STEP = 2_048, 512
GROUP_DOCUMENTS, SHARD_GROUPS = 16, 16
SHARES = (0.45, 0.15, 0.08, 0.06, 0.05, 0.05, 0.04, 0.04, 0.03, 0.02, 0.02, 0.01)
CACHE_PARTS = (1.0, 0.75, 0.5, 0.25)

Shard = tuple[int, int]


@dataclass
class Lengths:
    """Documents of which only the lengths matter."""

    length_N: np.ndarray
    part: Any = None

    @property
    def num_documents(self) -> int:
        return len(self.length_N)

    def lengths(self, start: int, stop: int) -> np.ndarray:
        return self.length_N[start:stop]

    def samples(self, i: int) -> tuple[int, ...]:
        return (i,)

    def document(self, i: int) -> Any:
        raise AssertionError("nothing to read")


def streams_of(num_documents: int) -> list[PartitionedStream]:
    """Speech in every language, and a tenth as much paired speech."""
    rng = np.random.default_rng(0)
    streams = []
    rules = PackingRules(SEQ_LEN)
    for kind, count, part in ((SplitStream, split_counts, 0.9), (WholeStream, whole_counts, 0.1)):
        for language, share in enumerate(SHARES):
            size = max(int(num_documents * share * part), 64)
            lengths: Any = Lengths(rng.lognormal(6.0, 0.6, size).clip(50, 2_000).astype(np.int32))
            groups = Blocks((lengths,), GROUP_DOCUMENTS)
            counts = [count(groups, k, rules) for k in range(groups.num_blocks)]
            streams.append(PartitionedStream(f"{kind.__name__}/{language}", groups, rules, counts, kind))
    return streams


def shards_by_slot(streams: list[PartitionedStream], places: SlotLocality, num_slots: int) -> list[list[Shard]]:
    shard_documents = GROUP_DOCUMENTS * SHARD_GROUPS
    found = []
    for slot in range(num_slots):
        stream, j = places.order.locate(slot)
        found.append(list({(stream, piece.document // shard_documents) for piece in streams[stream].pieces(j)}))
    return found


def fetches(reads: Iterable[Shard], num_cached: int) -> int:
    """Misses of a cache that evicts the least recently used shard."""
    cache: OrderedDict[Shard, None] = OrderedDict()
    misses = 0
    for shard in reads:
        if shard in cache:
            cache.move_to_end(shard)
            continue
        misses += 1
        cache[shard] = None
        if len(cache) > num_cached:
            cache.popitem(last=False)
    return misses


def figures_of(num_nodes: int, shards: list[list[Shard]], places: SlotLocality, num_shards: int) -> dict[str, Any]:
    shape = StepShape(PACKS_PER_STEP, num_nodes, 1)
    reads: list[list[Shard]] = [[] for _ in range(num_nodes)]
    touched_in_turn: list[set[Shard]] = [set() for _ in range(num_nodes)]
    for first in range(0, len(shards) - PACKS_PER_STEP, PACKS_PER_STEP):
        place_P = places.keys(first, PACKS_PER_STEP)
        for node in range(num_nodes):
            for i in shape.slots_of_rank(place_P, node):
                reads[node] += shards[first + i]
        for i in range(PACKS_PER_STEP):
            touched_in_turn[i % num_nodes].update(shards[first + i])
    touched = [set(of_node) for of_node in reads]
    by_cache = {
        f"{part:g}": sum(fetches(r, int(part * len(t))) for r, t in zip(reads, touched, strict=True)) / num_shards
        for part in CACHE_PARTS
    }
    return {
        "touched_per_shard": sum(map(len, touched)) / num_shards,
        "touched_per_shard_dealt_in_turn": sum(map(len, touched_in_turn)) / num_shards,
        "fetches_per_shard_by_cached_part": by_cache,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=400_000)
    parser.add_argument("--nodes", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 3, 8])
    args = parser.parse_args()
    streams = streams_of(args.documents)
    num_packs_N = np.array([stream.counts.num_packs for stream in streams])
    sources = np.repeat([0, 1], len(SHARES))
    order = slot_order(sources, np.tile(np.arange(len(SHARES)), 2), num_packs_N / num_packs_N.sum())
    places = SlotLocality.of(order, streams)
    shards = shards_by_slot(streams, places, int(num_packs_N.sum()))
    num_shards = len({shard for of_slot in shards for shard in of_slot})
    lane_tokens = [
        [sum(stream.block_counts[k].num_tokens for k in lane) for lane in stream.partitions] for stream in streams
    ]
    result = {
        "num_slots": len(shards),
        "num_shards": num_shards,
        "lanes": [stream.num_partitions for stream in streams],
        "greatest_lane_over_least": [max(tokens) / min(tokens) for tokens in lane_tokens],
        "nodes": {str(n): figures_of(n, shards, places, num_shards) for n in args.nodes},
    }
    print(json.dumps(rounded(result), indent=1))


if __name__ == "__main__":
    main()
