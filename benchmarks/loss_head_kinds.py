"""The heads of the loss that loss_heads.py compares.

In: hidden states, a head, ids. Out: the mean loss, whose gradients follow by backward().

    chunked   TorchTitan's chunked loss over ours: logits of one chunk at a time, backward within the forward pass
    full      all logits at once
    torch     torch.nn.functional.linear_cross_entropy with its options, for each token and summed
    liger     liger-kernel's fused head, for each token, summed, and summed with fp32 sums of weight gradients
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import nn
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.config import CompileConfig

from titan_speech.training.loss import GroupedCrossEntropy, token_nll

# Shapes: N tokens, D width, V vocabulary rows.

Head = Callable[[torch.Tensor, nn.Linear, torch.Tensor], torch.Tensor]
"""Hidden states [1, N, D], the head's matrix and ids [1, N] to the mean loss; gradients follow by backward()."""
NUM_CHUNKS = 8


def chunked(compile_config: CompileConfig) -> Head:
    def head_of(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
        loss_fn = GroupedCrossEntropy.Config(num_rows=head.out_features, num_streams=1, kind_boundaries=(1, 2))
        wrapper = ChunkedLossWrapper.Config(num_chunks=NUM_CHUNKS, loss_fn=loss_fn).build(compile_config=compile_config)
        wrapper.set_lm_head(head)
        loss, _ = wrapper(hidden_1ND, ids_1N, torch.tensor(float(ids_1N.numel()), device=ids_1N.device))
        return loss

    return head_of


def full(token_losses: Callable[..., torch.Tensor]) -> Head:
    def head_of(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
        return token_losses(head(hidden_1ND)[0], ids_1N[0], head.out_features).mean()

    return head_of


def of_torch(reduction: str) -> Head:
    def head_of(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
        options = nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(
            hidden_1ND[0], head.weight, ids_1N[0], reduction=reduction, options=options
        ).mean()

    return head_of


def of_liger(reduction: str, accum_dtype: torch.dtype | None = None) -> Head:
    def head_of(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
        from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
            liger_fused_linear_cross_entropy,
        )

        return liger_fused_linear_cross_entropy(
            hidden_1ND[0], head.weight, ids_1N[0], reduction=reduction, accum_dtype=accum_dtype
        ).mean()

    return head_of


PER_TOKEN = {
    "chunked": True,
    "full": True,
    "torch": True,
    "torch, summed": False,
    "liger": True,
    "liger, summed": False,
    "liger, summed, fp32": False,
}
"""Whether a head, as it is called here, gives the loss of each token."""


def _fused_heads(with_liger: bool) -> dict[str, Head]:
    heads: dict[str, Head] = {}
    if hasattr(F, "linear_cross_entropy"):
        heads |= {"torch": of_torch("none"), "torch, summed": of_torch("mean")}
    if with_liger and find_spec("liger_kernel") is not None:
        heads |= {"liger": of_liger("none"), "liger, summed": of_liger("mean")}
        heads["liger, summed, fp32"] = of_liger("mean", torch.float32)
    return heads


def available_heads() -> dict[str, Head]:
    """The heads that run here, uncompiled."""
    can_run_triton = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    return {"chunked": chunked(CompileConfig()), "full": full(token_nll), **_fused_heads(can_run_triton)}


def compiled_heads() -> dict[str, Head]:
    """The heads as a run on a GPU would use them: what can be compiled is."""
    settings = CompileConfig(enable=True, components=["loss"])
    return {"chunked": chunked(settings), "full": full(torch.compile(token_nll)), **_fused_heads(with_liger=True)}
