"""What stands in for kernels a CPU does not have, so that a trace allocates what a GPU would.

In: the operators' fake inputs. Out: outputs of the right shape, and for the backward pass exactly what the GPU kernels
keep: attention its inputs, output and one fp32 number per query and head; a norm its input and one fp32 number per row.
Traced without them, dense attention would keep L x L scores and a norm four more copies of its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torchtitan.models.common.attention import FlexAttention
from torchtitan.models.common.decoder import Decoder


class FusedAttention(FlexAttention):
    """Attention that keeps what flex and varlen keep; the documents' borders change no size, so it asks for no mask."""

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        pass

    def forward(  # type: ignore[override]
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: object = None,
        scale: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        q_BNLH, k_BNLH, v_BNLH = (x.transpose(1, 2) for x in (q_BLNH, k_BLNH, v_BLNH))
        attend = torch.ops.aten._scaled_dot_product_flash_attention
        return attend(q_BNLH, k_BNLH, v_BNLH, 0.0, True, scale=scale)[0].transpose(1, 2)


def _fused_rms_norm(
    x: torch.Tensor, shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    return torch.ops.aten._fused_rms_norm(x, shape, weight, eps)[0]


def as_on_a_gpu(model: Decoder.Config) -> None:
    """Give every layer the attention above, and this process the norm; for a process that only traces."""
    for layer in model.layers:
        layer.attention.inner_attention = FusedAttention.Config()
    F.rms_norm = _fused_rms_norm  # type: ignore[assignment]
