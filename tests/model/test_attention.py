"""Padded cumulative lengths of packed documents: TorchTitan's own, at one shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchtitan.models.common.attention import create_varlen_metadata_for_document

from titan_speech.model.attention import max_documents, padded_cu_seqlens

LENGTH = 24
lengths = st.lists(st.integers(1, LENGTH), min_size=1, max_size=LENGTH)


def positions(batch: list[list[int]]) -> torch.Tensor:
    """Packs of documents of these lengths, cut where the pack ends."""
    packs = [torch.cat([torch.arange(length) for length in [*pack, LENGTH]])[:LENGTH] for pack in batch]
    return torch.stack(packs)


@given(st.lists(lengths, min_size=1, max_size=3))
def test_borders_are_torchtitans_and_the_rest_are_empty_documents(batch: list[list[int]]) -> None:
    positions_BL = positions(batch)
    theirs = create_varlen_metadata_for_document(positions_BL).cu_seq_q
    capacity = LENGTH * len(batch)
    found = padded_cu_seqlens(positions_BL, capacity)
    assert found.dtype == theirs.dtype
    assert found.shape == (capacity + 1,)
    assert torch.equal(found[: len(theirs)], theirs)
    assert (found[len(theirs) :] == positions_BL.numel()).all()


def test_the_exact_capacity_is_enough_and_one_less_is_refused() -> None:
    positions_BL = positions([[4, 5, 15], [24]])
    assert padded_cu_seqlens(positions_BL, 4).tolist() == [0, 4, 9, 24, 48]
    with pytest.raises(RuntimeError, match="more documents than its capacity of 3"):
        padded_cu_seqlens(positions_BL, 3)


def test_positions_are_left_as_they_are() -> None:
    positions_BL = positions([[4, 20]]) + 7
    before = positions_BL.clone()
    assert padded_cu_seqlens(positions_BL, 2).tolist() == [0, 24, 24]
    assert torch.equal(positions_BL, before)


@pytest.mark.parametrize("shortest", [1, 3, 7, 24])
def test_no_pack_holds_more_than_its_bound(shortest: int) -> None:
    """The fullest pack: the end of one document, whole shortest ones, the beginning of another, padding."""
    whole = (LENGTH - 3) // shortest
    assert 1 + whole + 1 + 1 <= max_documents(LENGTH, shortest)
    assert max_documents(LENGTH, 1) == LENGTH
