"""Attention inside documents: the back ends, and when each is used.

In: packed queries, keys and values, and TorchTitan's block mask, whose document borders come from positions that
restart at 0. Out: attention in which no document sees another. Trade-off: the dense back end builds an L x L mask and
calls SDPA, which costs O(L^2) memory (1 MB per pack at L = 1,024) and runs anywhere; flex skips masked blocks and needs
CUDA. For kernels of variable length: borders of packed documents as cumulative lengths of one fixed shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_mask
from torchtitan.models.common.attention import FlexAttention, VarlenAttention
from torchtitan.protocols.module import Module

from titan_speech.errors import ConfigError

# Shape legend: B packs, L tokens, N heads, H width of a head, Q queries, K keys.


class DenseDocumentAttention(FlexAttention):
    """SDPA with the block mask as a dense mask.

    Module and Config are subclasses of Flex's: TorchTitan builds masks, and context parallelism shards them, only for
    Flex and Varlen configurations; any other module would silently get no mask.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        pass

    def forward(  # type: ignore[override]
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: BlockMask,
        scale: float | None = None,
        enable_gqa: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor:
        assert isinstance(attention_masks, BlockMask), f"expected a BlockMask, got {type(attention_masks)}"
        out_BNLH = F.scaled_dot_product_attention(
            q_BLNH.transpose(1, 2),
            k_BLNH.transpose(1, 2),
            v_BLNH.transpose(1, 2),
            attn_mask=dense_mask(attention_masks, q_BLNH.shape[0], q_BLNH.shape[1], k_BLNH.shape[1]),
            scale=scale,
            enable_gqa=enable_gqa,
        )
        return out_BNLH.transpose(1, 2)


def dense_mask(block_mask: BlockMask, num_packs: int, num_queries: int, num_keys: int) -> torch.Tensor:
    """The block mask as booleans, shape [B, 1, Q, K]; cached on the mask, since every layer uses the same one."""
    cached: torch.Tensor | None = getattr(block_mask, "_dense_B1QK", None)
    if cached is None or cached.shape != (num_packs, 1, num_queries, num_keys):
        device = str(block_mask.kv_num_blocks.device)
        cached = create_mask(block_mask.mask_mod, num_packs, 1, num_queries, num_keys, device)
        block_mask._dense_B1QK = cached  # type: ignore[attr-defined]
    return cached


_BACK_ENDS: dict[str, Callable[[], Module.Config]] = {
    "flex": FlexAttention.Config,
    "flex_flash": lambda: FlexAttention.Config(kernel_options={"BACKEND": "FLASH"}),
    "varlen": VarlenAttention.Config,
    "dense": DenseDocumentAttention.Config,
}


def attention_config(name: str) -> Module.Config:
    """Configuration of an attention back end.

    Args:
        name: "flex", "flex_flash", "varlen", "dense", or "auto" for flex on CUDA and dense elsewhere.

    Raises:
        ConfigError: the back end needs CUDA, which is not available.
    """
    if name == "auto":
        name = "flex" if torch.cuda.is_available() else "dense"
    if name != "dense" and not torch.cuda.is_available():
        raise ConfigError(f'model.attention = "{name}" needs CUDA, and there is none here; use "auto" or "dense"')
    return _BACK_ENDS[name]()


def max_documents(seq_len: int, shortest: int) -> int:
    """Most pieces of documents that a pack holds: whole ones, one cut at each end, and the padding.

    Args:
        seq_len: tokens of a pack.
        shortest: tokens of the shortest document of the plan.
    """
    return min(seq_len, seq_len // shortest + 3)


def padded_cu_seqlens(positions_BL: torch.Tensor, capacity: int) -> torch.Tensor:
    """Offsets of the documents of a flattened batch, shape [C + 1]; the last are B * L.

    The shape depends on the capacity C alone, so that a captured graph can be given other packs: TorchTitan's own
    offsets have as many entries as there are documents, and are made with a host sync. Padded entries are documents of
    no tokens at the end, which kernels of variable length skip. More documents than the capacity fail on the device.

    Args:
        positions_BL: position of each token in its document.
        capacity: most documents of the batch.
    """
    total = positions_BL.numel()
    starts_BL = positions_BL == 0
    starts_BL[:, 0] = True  # a pack never continues the one before it
    starts_P = starts_BL.flatten()
    number_P = starts_P.cumsum(0) - 1
    torch._assert_async(number_P[-1] < capacity, f"a batch has more documents than its capacity of {capacity}")
    places_P = torch.where(starts_P, number_P, capacity).clamp(max=capacity)
    offsets_P = torch.where(starts_P, torch.arange(total, device=positions_BL.device), total)
    cu_seqlens = torch.full((capacity + 1,), total, dtype=torch.int64, device=positions_BL.device)
    return cu_seqlens.scatter_reduce(0, places_P, offsets_P, "amin").to(torch.int32)
