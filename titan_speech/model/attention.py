"""Attention inside documents: the back ends, and when each is used.

In: packed queries, keys and values, and TorchTitan's block mask, whose document borders come from positions that
restart at 0. Out: attention in which no document sees another. Trade-off: the dense back end builds an L x L mask and
calls SDPA, which costs O(L^2) memory (1 MB per pack at L = 1,024) and runs anywhere; flex skips masked blocks and needs
CUDA.
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
        raise ConfigError(f'model.attention = "{name}" needs CUDA, which this machine lacks; use "auto" or "dense"')
    return _BACK_ENDS[name]()
