"""How a step is spread over ranks and kernels: parallelism, recomputation, compiling, float8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ParallelismTable:
    """Degrees of parallelism; what is left over shards data (FSDP). docs/parallelism.md says what goes together."""

    data_parallel_replicate_degree: int = 1
    """Replicas of the weights: HSDP, or DDP when the shard degree is 1."""

    data_parallel_shard_degree: int = -1
    """Ranks that shard the weights together (FSDP); -1 takes all that are left."""

    fsdp_reshard_after_forward: Literal["default", "always", "never"] = "default"
    """When FSDP frees gathered weights: always after each layer, never before the backward pass (ZeRO-2: weights stay,
    gradients and optimizer are sharded), or by default after each layer unless there is a pipeline."""

    tensor_parallel_degree: int = 1
    """Ranks that share every matrix, and with it heads, vocabulary and the sequence between layers."""

    pipeline_parallel_degree: int = 1
    """Ranks that each hold some of the layers; untied backbones only."""

    pipeline_parallel_schedule: Literal["1F1B", "GPipe", "Interleaved1F1B"] = "1F1B"
    """Order of forward and backward passes; Interleaved1F1B gives each rank two stages."""

    pipeline_parallel_microbatch_size: int = 1
    """Packs of one pipeline pass; divides training.local_batch_packs."""

    pipeline_parallel_first_stage_less_layers: int = 1
    """Layers the embedding weighs when they are shared out."""

    pipeline_parallel_last_stage_less_layers: int = 1
    """Layers the output head weighs; with a grown vocabulary it is 3.6 layers of an 8B."""

    context_parallel_degree: int = 1
    """Ranks that share each pack, cut along its length."""

    context_parallel_load_balancer: Literal["headtail", "ptrr", "none"] = "headtail"
    """How a pack is cut: headtail gives each rank an early and a late piece, ptrr deals blocks of 128 by how much their
    documents attend to, none cuts it in order, which suits packs of many short documents."""


@dataclass(frozen=True, kw_only=True)
class ActivationCheckpointTable:
    """Trading compute for activation memory."""

    kind: Literal["none", "selective", "full", "memory_budget"] = "selective"
    """none keeps all activations, selective recomputes the cheap ones and every second matrix product, full recomputes
    every layer, memory_budget lets the compiler choose."""

    memory_budget: float = 0.5
    """With memory_budget: 0 keeps as little as full, 1 as much as the compiler likes."""


@dataclass(frozen=True, kw_only=True)
class CompileTable:
    """torch.compile. Packs have one length, so each layer is compiled once, in every stage, fine-tuning too."""

    enable: bool = False
    """Compile."""

    components: tuple[Literal["model", "loss"], ...] = ("model", "loss")
    """What is compiled: the layers, the loss of a chunk."""

    enable_async_tensor_parallel: bool = False
    """Overlap tensor-parallel communication with matrix products (CUDA, compiled layers)."""


@dataclass(frozen=True, kw_only=True)
class Float8Table:
    """Matrix products in float8 (torchao), on devices of compute capability 8.9 (L40S, H100) or later."""

    recipe: Literal["none", "rowwise", "rowwise_with_gw_hp", "tensorwise"] = "none"
    """none; rowwise scales each row, rowwise_with_gw_hp also keeps gradients of weights in high precision; tensorwise
    has one scale a matrix, fastest and least exact."""

    filter_fqns: tuple[str, ...] = ("lm_head",)
    """Linear layers whose name contains one of these stay as they are; the embedding always does."""

    emulate: bool = False
    """Round as float8 would and multiply in high precision, on any device and much slower; not with compile."""
