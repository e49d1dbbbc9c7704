"""Rotary embedding of Llama in real numbers, and reordering weights that were trained with the complex form.

In: queries and keys of one head, as two halves (x1, x2), each pair of which is rotated by the position's angle.
Out: (x1 cos - x2 sin, x2 cos + x1 sin), the form that Hugging Face's folders have and that Inductor can fuse.

TorchTitan's Llama rotates neighbours (x0, x1), (x2, x3), ... as complex numbers, which Inductor cannot compile: every
layer left the compiled graph for it. The two forms are the same function of weights whose rows are in another order, so
a checkpoint of the complex form is loaded by reordering rows of queries and keys within each head; AdamW's moments have
the same rows. Angles are those of TorchTitan's complex form to the last bit, Llama's scaling included; what differs is
the rounding of sums over a head's width (losses of the asset's run: at most 1e-7 relative in fp32).

Shapes: R rows of a matrix, with any axes after them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torchtitan.models.common import ComplexRoPE, CosSinRoPE
from torchtitan.models.common.attention import FusedQKVLinear


class LlamaRoPE(CosSinRoPE):
    """TorchTitan's cosine and sine form with the angles of its complex form, which knows Llama's scaling."""

    @dataclass(kw_only=True, slots=True)
    class Config(CosSinRoPE.Config):
        pass

    def _precompute_cache(self) -> torch.Tensor:
        angles = ComplexRoPE._precompute_cache(self)  # pyright: ignore[reportArgumentType]  (reads the configuration)
        return torch.cat([angles.real, angles.real, angles.imag, angles.imag], dim=-1)


def halves_from_pairs(rows_R: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of whole heads, reordered within each head from neighbours to halves."""
    by_head = rows_R.reshape(-1, head_dim // 2, 2, *rows_R.shape[1:])
    return by_head.transpose(1, 2).reshape(rows_R.shape)


def reorder_saved(state: dict[str, torch.Tensor], head_dim: int, num_groups: int) -> None:
    """Reorder in place what was read from a checkpoint whose rows are in pairs.

    Args:
        state: tensors by their names in a checkpoint; only queries and keys, and adapters of them, are changed.
        head_dim: width of a head.
        num_groups: heads of keys in the model.
    """
    for name, value in state.items():
        if name.endswith((".qkv_linear.wq.weight", ".qkv_linear.wk.weight")):
            value.copy_(halves_from_pairs(value, head_dim))
        elif name.endswith(".qkv_linear.wqkv.lora_b.weight"):
            value.copy_(_fused_halves(value, head_dim, num_groups))


@torch.no_grad()
def reorder_model(
    model_parts: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer], *, base: bool, adapter: bool
) -> None:
    """Reorder a model in place that was loaded from rows in pairs, sharded or not, and the moments of its optimizers.

    Each matrix is gathered, reordered and sharded again, one at a time; all ranks that share a part call this.

    Args:
        model_parts: of this rank.
        optimizers: whose moments were loaded with the weights; empty: only weights were.
        base: reorder the matrices.
        adapter: reorder the adapters next to them.
    """
    states = [optimizer.state for optimizer in optimizers]
    for part in model_parts:
        for module in part.modules():
            if isinstance(module, FusedQKVLinear):
                linear, groups = module.wqkv, module.wqkv.out_features // (module.r_dim * module.head_dim)
                adapters = [linear.lora_b.weight] if adapter and hasattr(linear, "lora_b") else []
                for weight in ([linear.weight] if base else []) + adapters:
                    moments = [state[weight] for state in states if weight in state]
                    same_rows = [value for found in moments for value in found.values() if value.shape == weight.shape]
                    for tensor in (weight, *same_rows):
                        _reorder(tensor, module.head_dim, groups)


def _fused_halves(rows_R: torch.Tensor, head_dim: int, num_groups: int) -> torch.Tensor:
    """Rows of queries, keys and values in one matrix: each group has its queries' heads, one of keys, one of values."""
    groups = rows_R.reshape(num_groups, -1, *rows_R.shape[1:]).clone()
    turned = groups[:, :-head_dim]
    turned.copy_(halves_from_pairs(turned.flatten(0, 1), head_dim).view_as(turned))
    return groups.reshape(rows_R.shape)


def _reorder(tensor: torch.Tensor, head_dim: int, num_groups: int) -> None:
    if not isinstance(tensor, DTensor):
        tensor.copy_(_fused_halves(tensor, head_dim, num_groups))
        return
    mesh = tensor.device_mesh
    whole = [Replicate()] * mesh.ndim
    ordered = _fused_halves(tensor.redistribute(mesh, whole).to_local(), head_dim, num_groups)
    shards = DTensor.from_local(ordered, mesh, whole, run_check=False).redistribute(mesh, tensor.placements)
    tensor.to_local().copy_(shards.to_local())
