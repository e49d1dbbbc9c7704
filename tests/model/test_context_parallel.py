"""What ranks that share a pack are given: each its rows of the mask, in the order in which keys are gathered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.attention.flex_attention import BlockMask
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchtitan.distributed.context_parallel import cp_shard

from titan_speech.model.attention import attention_config, dense_mask
from titan_speech.model.backbones import published_shape
from titan_speech.model.spec import decoder_config
from titan_speech.utils import cpu

NUM_RANKS, SEQ_LEN = 2, 512
LENGTHS = ((100, 156, 256), (30, 200, 26, 256))
NUM_PACKS = len(LENGTHS)
POSITIONS_BL = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in LENGTHS])
PLACES_BL = torch.arange(SEQ_LEN).expand(NUM_PACKS, SEQ_LEN).contiguous()


@contextmanager
def mesh_of(rank: int) -> Iterator[DeviceMesh]:
    """The mesh as one rank has it, without the other; cutting needs no communication."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=NUM_RANKS)
    try:
        yield init_device_mesh("cpu", (NUM_RANKS,))
    finally:
        dist.destroy_process_group()


def mask() -> BlockMask:
    with torch.device("meta"):
        model = decoder_config(published_shape("llama3", "debug"), 1024, attention_config("dense")).build()
    found = model.get_attention_masks(POSITIONS_BL)
    assert isinstance(found, BlockMask)
    return found


def part_of(rank: int, balancer: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in the pack of this rank's tokens [B, Q], and its rows of the mask [B, 1, Q, L]."""
    with mesh_of(rank) as mesh:
        (mine_BQ,), cut = cp_shard(mesh, (PLACES_BL,), mask(), balancer)
    assert isinstance(cut, BlockMask)
    return mine_BQ, dense_mask(cut, NUM_PACKS, mine_BQ.shape[1], SEQ_LEN)


@pytest.mark.parametrize("balancer", ["headtail", "ptrr", None])
def test_each_rank_masks_its_part_of_a_pack_as_the_whole_is_masked(balancer: str | None) -> None:
    cpu.prepare()
    whole_B1LL = dense_mask(mask(), NUM_PACKS, SEQ_LEN, SEQ_LEN)
    parts = [part_of(rank, balancer) for rank in range(NUM_RANKS)]
    keys_BL = torch.cat([mine_BQ for mine_BQ, _ in parts], dim=1)
    assert sorted(keys_BL[0].tolist()) == list(range(SEQ_LEN))
    for mine_BQ, found_B1QL in parts:
        for pack in range(NUM_PACKS):
            expected_QL = whole_B1LL[pack, 0][mine_BQ[pack]][:, keys_BL[pack]]
            assert torch.equal(found_B1QL[pack, 0], expected_QL)
