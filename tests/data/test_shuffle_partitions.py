"""Shuffle partitions: each document once per epoch, the same slots at every number of ranks, few shards per rank."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.listed_documents import blocks_of, partitioned
from titan_speech.data.order import slot_order
from titan_speech.data.packing import MAX_PARTITIONS, PackingRules, floor_power_of_two
from titan_speech.data.shuffle_partitions import (
    PartitionedStream,
    PartitionStream,
    SlotLocality,
    num_taken,
    partition_of_turn,
)
from titan_speech.data.slots import StepShape
from titan_speech.data.streams import BLOCKS_PER_CHUNK, SplitStream, WholeStream, local_shuffle

SEQ_LEN = 64
KINDS: list[type[PartitionStream]] = [SplitStream, WholeStream]


def lengths_of(num_documents: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, SEQ_LEN, num_documents).tolist()


def small_partitions(kind: type[PartitionStream], num_documents: int = 640, seed: int = 0) -> PartitionedStream:
    """Partitions of at least 4 blocks of 4 documents."""
    blocks = blocks_of(lengths_of(num_documents, seed), block_documents=4, min_partition_blocks=4)
    return partitioned(kind, f"{seed}/partitions", blocks, PackingRules(SEQ_LEN))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_documents", [5, 16, 100, 640, 3_000])
def test_the_number_of_partitions_is_a_power_of_two_that_follows_from_the_data(kind, num_documents: int) -> None:
    stream = small_partitions(kind, num_documents)
    assert stream.num_partitions == floor_power_of_two(min(-(-num_documents // 4) // 4, MAX_PARTITIONS))
    assert [block for partition in stream.partitions for block in partition] == list(range(stream.blocks.num_blocks))


def test_partitions_hold_equal_shares_of_the_tokens_but_for_a_block_also_where_lengths_drift() -> None:
    lengths = np.linspace(5, 60, 2_560).astype(int).tolist()
    stream = partitioned(
        SplitStream, "k", blocks_of(lengths, block_documents=4, min_partition_blocks=20), PackingRules(SEQ_LEN)
    )
    assert stream.num_partitions == 32
    sizes = [sum(stream.block_counts[k].num_tokens for k in partition) for partition in stream.partitions]
    assert max(sizes) - min(sizes) <= 2 * 4 * 60
    assert max(map(len, stream.partitions)) > 1.4 * min(map(len, stream.partitions))


def test_partitions_that_would_hold_hardly_anything_are_not_made() -> None:
    lengths = [0] * 1_280 + [30] * 12
    stream = partitioned(
        SplitStream, "k", blocks_of(lengths, block_documents=4, min_partition_blocks=4), PackingRules(SEQ_LEN)
    )
    assert stream.num_partitions == 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_comes_once_in_every_epoch_of_its_partition(kind: type[PartitionStream]) -> None:
    stream = small_partitions(kind)
    assert stream.num_partitions == 32
    size = max(stream.partition(number).epoch_size for number in range(stream.num_partitions))
    num_packs = stream.num_partitions * (3 * size // (SEQ_LEN if kind is SplitStream else 1) + 3)
    read: Counter[int] = Counter()
    by_partition: dict[int, list[tuple[int, int]]] = {}
    for j in range(num_packs):
        for piece in stream.pieces(j):
            number = partition_of_turn(j, stream.num_partitions)
            by_partition.setdefault(number, []).extend((piece.document, t) for t in range(piece.start, piece.stop))
            read[piece.document] += 1
    borders = [stream.blocks.slices(partition.start)[0][0] for partition in stream.partitions] + [640]
    all_lengths = stream.blocks.documents[0].lengths(0, 640).tolist()
    for number, tokens in by_partition.items():
        documents = range(borders[number], borders[number + 1])
        expected = Counter((i, t) for i in documents for t in range(all_lengths[i]))
        for epoch in range(3):
            assert Counter(tokens[epoch * len(expected) : (epoch + 1) * len(expected)]) == expected
    assert len(by_partition) == stream.num_partitions


@given(st.sampled_from([1, 2, 4, 8, 64]), st.integers(0, 500))
def test_turns_go_round_all_partitions_and_are_counted_in_closed_form(num_partitions: int, num_turns: int) -> None:
    taken = Counter(partition_of_turn(turn, num_partitions) for turn in range(num_turns))
    assert [taken[number] for number in range(num_partitions)] == [
        num_taken(num_turns, number, num_partitions) for number in range(num_partitions)
    ]


@settings(max_examples=15)
@given(st.sampled_from(KINDS), st.integers(0, 200), st.integers(0, 200), st.integers(0, 10**6))
def test_a_stream_goes_on_from_its_cursor_as_if_it_had_not_stopped(kind, first: int, second: int, jump: int) -> None:
    stream = small_partitions(kind, 200)
    resumed = stream
    for num_packs in (first, second):
        cursor = resumed.cursor(num_packs)
        resumed = partitioned(kind, stream.key, stream.blocks, stream.rules, cursor)
    resumed = pickle.loads(pickle.dumps(resumed))
    for j in (0, 1, 2, 50, jump):
        assert resumed.pieces(j) == stream.pieces(first + second + j)


@given(st.text(max_size=9), st.integers(1, 200))
def test_a_local_shuffle_keeps_blocks_in_their_order(key: str, n: int) -> None:
    order = local_shuffle(key, n)
    assert sorted(order.tolist()) == list(range(n))
    assert (np.diff(order // BLOCKS_PER_CHUNK) >= 0).all()


@pytest.fixture(scope="module")
def mixed() -> tuple[list[PartitionedStream], SlotLocality]:
    streams = [small_partitions(KINDS[i % 2], size, i) for i, size in enumerate((6_000, 1_200, 400, 90))]
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    order = slot_order(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), shares)
    return streams, SlotLocality.of(order, streams)


@given(st.integers(1, 9), st.integers(1, 70), st.integers(0, 10**6))
def test_every_number_of_ranks_computes_the_same_slots_each_near_its_part_of_the_partitions(mixed, ranks, packs, first):
    _, locality = mixed
    key_P = locality.keys(first, packs)
    runs = [StepShape(packs, ranks, 3).slots_of_rank(key_P, rank) for rank in range(ranks)]
    assert sorted(i for run in runs for i in run) == list(range(packs))
    in_order = [key_P[i] for run in runs for i in run]
    assert in_order == sorted(in_order)


def test_locality_keys_of_single_slots_are_those_of_a_run_of_slots(mixed) -> None:
    streams, locality = mixed
    for first in (0, 65_500, 10**9):
        for i, key in enumerate(locality.keys(first, 100)):
            assert locality.keys(first + i, 1).tolist() == [key]
            stream, j = locality.order.locate(first + i)
            number = partition_of_turn(j, streams[stream].num_partitions)
            assert int(key) * streams[stream].num_partitions >> 20 == number


@pytest.mark.parametrize(("num_nodes", "at_most"), [(1, 1.0), (2, 1.3), (4, 1.6)])
def test_a_shard_is_read_by_about_one_node(mixed, num_nodes: int, at_most: float) -> None:
    """Shards of 32 documents; small streams are read by few nodes, too, though they are only one partition."""
    streams, locality = mixed
    touched: list[set[tuple[int, int]]] = [set() for _ in range(num_nodes)]
    for first in range(0, 4_096, 128):
        key_P = locality.keys(first, 128)
        for node, shards in enumerate(touched):
            for i in StepShape(128, num_nodes, 4).slots_of_rank(key_P, node):
                stream, j = locality.order.locate(first + i)
                shards.update((stream, piece.document // 32) for piece in streams[stream].pieces(j))
    num_shards = len(set().union(*touched))
    assert num_shards > 200
    assert sum(map(len, touched)) / num_shards <= at_most
