"""Streams over epochs: each document once an epoch, the same from any entry point; labels and positions of packs."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.listed_documents import blocks_of, one_partition, partitioned
from titan_speech.data.pack_layout import IGNORE_INDEX, MAX_STREAMS, build_pack, encode_labels, split_labels
from titan_speech.data.packing import PackingRules, Piece
from titan_speech.data.streams import PartitionStream, SplitStream, WholeStream

SEQ_LEN, PAD = 64, 999
PARTS = ([17, 5, 120, 64, 9, 33, 2, 70, 41, 8, 12] * 3, [20, 3, 55] * 4)  # some above the sequence length


def documents_in(pieces: list[Piece]) -> Counter[tuple[int, int, int]]:
    return Counter((part, i, token) for part, i, start, stop in pieces for token in range(start, stop))


def all_tokens(*, max_len: int | None = None) -> Counter[tuple[int, int, int]]:
    return Counter(
        (part, i, token)
        for part, lengths in enumerate(PARTS)
        for i, length in enumerate(lengths)
        if max_len is None or length <= max_len
        for token in range(length)
    )


def split_stream(key: str = "0/speech/en", **kwargs) -> PartitionStream:
    return one_partition(SplitStream, key, blocks_of(*PARTS, **kwargs), PackingRules(SEQ_LEN))


def whole_stream(*, split: bool = False, key: str = "0/tts/en", **kwargs) -> PartitionStream:
    return one_partition(WholeStream, key, blocks_of(*PARTS, **kwargs), PackingRules(SEQ_LEN, split))


@pytest.mark.parametrize("block_documents", [1, 8, 4_096])
def test_each_token_of_each_document_comes_once_in_every_epoch_of_a_split_stream(block_documents: int) -> None:
    stream = split_stream(block_documents=block_documents)
    num_epochs, size = 4, stream.epoch_size
    pieces = [piece for j in range(-(-num_epochs * size // SEQ_LEN)) for piece in stream.pieces(j)]
    tokens = [token for piece in pieces for token in sorted(documents_in([piece]))]
    for epoch in range(num_epochs):
        assert Counter(tokens[epoch * size : (epoch + 1) * size]) == all_tokens()


@pytest.mark.parametrize("block_documents", [1, 8, 4_096])
@pytest.mark.parametrize("split", [False, True])
def test_each_document_comes_once_in_every_epoch_of_a_whole_stream(split: bool, block_documents: int) -> None:
    stream = whole_stream(split=split, block_documents=block_documents)
    for epoch in range(4):
        first = epoch * stream.epoch_size
        pieces = [piece for j in range(first, first + stream.epoch_size) for piece in stream.pieces(j)]
        assert documents_in(pieces) == all_tokens(max_len=None if split else SEQ_LEN)


def test_no_document_is_cut_or_crosses_a_pack_in_a_whole_stream() -> None:
    stream = whole_stream()
    for j in range(3 * stream.epoch_size):
        pieces = stream.pieces(j)
        assert all(start == 0 and stop == PARTS[part][i] for part, i, start, stop in pieces)
        assert 0 < sum(stop - start for _, _, start, stop in pieces) <= SEQ_LEN


def test_every_pack_of_a_split_stream_is_full() -> None:
    stream = split_stream()
    for j in range(50):
        assert sum(stop - start for _, _, start, stop in stream.pieces(j)) == SEQ_LEN


@pytest.mark.parametrize("make", [split_stream, whole_stream])
def test_epochs_differ_in_order_and_seeds_differ_too(make) -> None:
    stream, packs = make(), 30
    order = [stream.pieces(j) for j in range(packs)]
    later = [stream.pieces(j + stream.epoch_size) for j in range(packs)]
    other = [make(key="1/other").pieces(j) for j in range(packs)]
    assert order != later
    assert order != other


def test_who_shares_a_pack_changes_between_epochs() -> None:
    stream = one_partition(WholeStream, "0/tts/en", blocks_of([30] * 64, block_documents=64), PackingRules(SEQ_LEN))
    pairs = [
        {
            frozenset(piece.document for piece in stream.pieces(e * stream.epoch_size + j))
            for j in range(stream.epoch_size)
        }
        for e in range(2)
    ]
    assert len(pairs[0]) == 32
    assert len(pairs[0] & pairs[1]) < 8


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=6), st.booleans())
def test_a_pack_is_the_same_from_any_entry_point(jumps: list[int], whole: bool) -> None:
    make = whole_stream if whole else split_stream
    stream = make()
    found = [stream.pieces(j) for j in jumps]
    assert found == [make().pieces(j) for j in jumps]
    assert found == [pickle.loads(pickle.dumps(stream)).pieces(j) for j in jumps]


def test_pack_a_billion_of_a_split_stream_is_the_window_of_its_epoch() -> None:
    stream = split_stream()
    j = 10**9
    epoch, offset = divmod(j * SEQ_LEN, stream.epoch_size)
    walked = documents_in([p for k in range(offset // SEQ_LEN + 2) for p in _epoch_pack(stream, epoch, k)])
    assert documents_in(stream.pieces(j)) <= walked + documents_in(_epoch_pack(stream, epoch + 1, 0))


def _epoch_pack(stream: PartitionStream, epoch: int, k: int) -> list[Piece]:
    return stream.pieces((epoch * stream.epoch_size) // SEQ_LEN + k)


def test_groups_hold_the_same_part_of_every_part() -> None:
    blocks = blocks_of([5] * 300, [5] * 100, block_documents=40)
    for k in range(blocks.num_blocks):
        assert np.bincount(blocks.block(k).part_N).tolist() == [30, 10]


def test_unusable_documents_are_never_read_and_counted() -> None:
    lengths = [0, 7, 0, 9, 5] * 4
    for kind in (SplitStream, WholeStream):
        stream = partitioned(kind, "k", blocks_of(lengths), PackingRules(SEQ_LEN))
        seen = {piece.document for j in range(30) for piece in stream.pieces(j)}
        assert seen == {i for i, length in enumerate(lengths) if length}
        assert (stream.counts.num_documents, stream.counts.num_unusable) == (12, 8)


def test_too_long_documents_are_counted_dropped_or_split() -> None:
    blocks = blocks_of(*PARTS)
    dropped, split = (partitioned(WholeStream, "k", blocks, PackingRules(SEQ_LEN, split)) for split in (False, True))
    num_long = sum(length > SEQ_LEN for part in PARTS for length in part)
    num_all = sum(map(len, PARTS))
    assert (dropped.counts.num_dropped, dropped.counts.num_documents) == (num_long, num_all - num_long)
    assert (split.counts.num_split, split.counts.num_documents) == (num_long, num_all)
    assert dropped.counts.longest == split.counts.longest == 120
    assert split.counts.num_tokens == sum(map(sum, PARTS))


@pytest.mark.parametrize("stream", [split_stream(), whole_stream(split=True)], ids=["split", "whole"])
def test_every_token_but_bos_is_a_target_exactly_once_an_epoch(stream: PartitionStream) -> None:
    """Also across the borders of packs: the last position's label lies past the pack's end."""
    if isinstance(stream, SplitStream):
        num_packs, num_epochs = stream.epoch_size, SEQ_LEN  # that many packs are a whole number of epochs
    else:
        num_packs, num_epochs = stream.epoch_size, 1
    targets: Counter[int] = Counter()
    for j in range(num_packs):
        pack = build_pack(0, 7, stream.blocks.documents, stream.pieces(j), SEQ_LEN, PAD)
        ids, streams = split_labels(pack.labels_S)
        targets.update(ids[ids != IGNORE_INDEX].tolist())
        assert set(streams[ids != IGNORE_INDEX].tolist()) <= {7}
    documents = [docs.document(i) for docs in stream.blocks.documents for i in range(docs.num_documents)]
    expected = Counter(int(id_) for document in documents for id_ in document.ids_T[1:])
    assert targets == Counter({id_: num_epochs * count for id_, count in expected.items()})


@pytest.mark.parametrize("stream", [split_stream(), whole_stream(), whole_stream(split=True)])
def test_labels_follow_ids_inside_a_piece_and_never_cross_documents(stream) -> None:
    for j in range(40):
        pieces = stream.pieces(j)
        pack = build_pack(0, 3, stream.blocks.documents, pieces, SEQ_LEN, PAD)
        ids, _ = split_labels(pack.labels_S)
        begin = 0
        for part, i, start, stop in pieces:
            end = begin + stop - start
            document = stream.blocks.documents[part].document(i)
            assert pack.ids_S[begin:end].tolist() == document.ids_T[start:stop].tolist()
            assert ids[begin : end - 1].tolist() == document.ids_T[start + 1 : stop].tolist()
            goes_on = stop < len(document.ids_T)
            assert ids[end - 1] == (document.ids_T[stop] if goes_on else IGNORE_INDEX)
            begin = end
        assert np.all(pack.ids_S[begin:] == PAD)
        assert np.all(ids[begin:] == IGNORE_INDEX)
        assert pack.num_pad_tokens == SEQ_LEN - begin


@pytest.mark.parametrize("stream", [split_stream(), whole_stream(), whole_stream(split=True)])
def test_positions_restart_at_every_piece_and_at_the_padding(stream) -> None:
    for j in range(40):
        pieces = stream.pieces(j)
        pack = build_pack(0, 3, stream.blocks.documents, pieces, SEQ_LEN, PAD)
        sizes = [stop - start for _, _, start, stop in pieces] + [pack.num_pad_tokens]
        assert pack.positions_S.tolist() == [position for size in sizes for position in range(size)]


def test_a_continuation_piece_has_no_bos() -> None:
    stream = split_stream()
    continued = [j for j in range(100) if stream.pieces(j)[0].start > 0]
    assert len(continued) > 10
    for j in continued:
        pack = build_pack(0, 3, stream.blocks.documents, stream.pieces(j), SEQ_LEN, PAD)
        assert pack.ids_S[0] != 0
        assert pack.positions_S[0] == 0


@given(st.integers(0, 2**31 - 1), st.integers(0, MAX_STREAMS), st.booleans())
def test_labels_give_back_id_and_stream(id_: int, stream: int, trained: bool) -> None:
    labels = np.where(trained, encode_labels(np.array([id_]), stream), IGNORE_INDEX)
    ids, streams = split_labels(labels)
    assert (ids[0], streams[0]) == ((id_, stream) if trained else (IGNORE_INDEX, 0))
