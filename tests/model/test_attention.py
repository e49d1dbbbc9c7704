"""What a CPU can check of attention on a GPU: flex attention unfused, masks and inputs of CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torchtitan.distributed.cudagraph import CUDAGraphInputSpec
from torchtitan.models.common.attention import FlexAttention, VarlenMetadata, create_varlen_metadata_for_document
from torchtitan.models.common.decoder import Decoder

from titan_speech.model.attention import DenseDocumentAttention, attention_config
from titan_speech.model.backbones import published_shape
from titan_speech.model.spec import decoder_config

NUM_PACKS, SEQ_LEN, NUM_ROWS = 2, 256, 1024


def positions(*lengths_of_packs: tuple[int, ...]) -> torch.Tensor:
    """Positions of packed documents, shape [packs, SEQ_LEN]."""
    return torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in lengths_of_packs])


ONE_BATCH = positions((100, 156), (30, 200, 26))
ANOTHER_BATCH = positions((256,), (1, 2, 3, 50, 200))


def decoder(family: str = "llama3") -> Decoder.Config:
    return decoder_config(published_shape(family, "debug"), NUM_ROWS, attention_config("dense"))


def masks(positions_BL: torch.Tensor) -> BlockMask:
    with torch.device("meta"):
        model = decoder().build()
    found = model.get_attention_masks(positions_BL)
    assert isinstance(found, BlockMask)
    return found


def attended(module: FlexAttention, mask: BlockMask) -> torch.Tensor:
    """Output, with fewer heads of keys than of queries; a CPU has no backward pass of flex attention."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(NUM_PACKS, SEQ_LEN, num_heads, 16) for num_heads in (4, 2, 2))
    return module(q, k, v, attention_masks=mask, enable_gqa=True)


def test_flex_attention_unfused_gives_what_dense_attention_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlexAttention, "_compiled_flex_attn", flex_attention)
    mask = masks(ONE_BATCH)
    flex = attended(FlexAttention.Config().build(), mask)
    dense = attended(DenseDocumentAttention.Config().build(), mask)
    torch.testing.assert_close(flex, dense, rtol=1e-5, atol=1e-5)


def graph_inputs(positions_BL: torch.Tensor) -> dict[str, Any]:
    fresh_BL = positions_BL.clone()  # a replay writes into what was captured
    return {"positions": fresh_BL, "attention_masks": masks(fresh_BL)}


def test_a_graph_is_given_inputs_of_one_structure_by_any_packs() -> None:
    spec = CUDAGraphInputSpec(graph_inputs(ONE_BATCH))
    first, second = (spec.flatten(graph_inputs(batch)) for batch in (ONE_BATCH, ANOTHER_BATCH))
    shapes = [[leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor)] for leaves in (first, second)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 4, "the mask's borders are among the inputs, not hidden in a closure"


def test_the_mask_a_graph_replays_is_that_of_the_new_packs() -> None:
    spec = CUDAGraphInputSpec(graph_inputs(ONE_BATCH))
    captured = spec.flatten(graph_inputs(ONE_BATCH))
    replayed = spec.unflatten(captured)["attention_masks"]
    for leaf, new in zip(captured, spec.flatten(graph_inputs(ANOTHER_BATCH)), strict=True):
        if isinstance(leaf, torch.Tensor):
            leaf.copy_(new)
    dense, new_mask = DenseDocumentAttention.Config().build(), masks(ANOTHER_BATCH)
    assert torch.equal(attended(dense, replayed), attended(dense, new_mask))


def test_inputs_of_varlen_attention_change_with_the_packs() -> None:
    found = [create_varlen_metadata_for_document(batch) for batch in (ONE_BATCH, ANOTHER_BATCH)]
    assert all(isinstance(metadata, VarlenMetadata) for metadata in found)
    assert found[0].cu_seq_q.shape != found[1].cu_seq_q.shape
