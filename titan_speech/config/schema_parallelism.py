"""How a step is computed: parallelism, activation checkpointing, compilation, float8, timeouts of collectives.

These tables decide speed and memory; batches and schedule are the same whatever they say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from titan_speech.config.fields import Bounds

Degree = Annotated[int, Bounds(at_least=1)]
ShardDegree = Annotated[int, Bounds(at_least=1, or_equal=-1, expected="-1 (all that are left) or a value at least 1")]


@dataclass(frozen=True, kw_only=True)
class ParallelismConfig:
    """Degrees of parallelism; the ranks that remain shard the data-parallel weights (FSDP). The page
    Parallelism and performance has the compatibility matrix."""

    data_parallel_replicate_degree: Degree = 1
    """Replicas of the weights: HSDP, or DDP if the shard degree is 1."""

    data_parallel_shard_degree: ShardDegree = -1
    """Ranks over which the weights are sharded (FSDP); -1: all ranks that the other degrees leave."""

    fsdp_reshard_after_forward: Literal["default", "always", "never"] = "default"
    """When FSDP frees gathered weights. always: after each layer's forward pass; never: weights are kept until the
    backward pass (ZeRO-2: only gradients and optimizer state are sharded); default: always, but never with pipeline
    parallel."""

    enable_fsdp_symm_mem: bool = False
    """FSDP's collectives in symmetric memory, which needs fewer copies and fewer processors of the GPU (CUDA, compute
    capability 9.0)."""

    tensor_parallel_degree: Degree = 1
    """Ranks that share each matrix, the attention heads, the vocabulary, and the sequence between layers."""

    pipeline_parallel_degree: Degree = 1
    """Ranks that each hold some of the layers; for backbones with untied embeddings only."""

    pipeline_parallel_schedule: Literal["1F1B", "GPipe", "Interleaved1F1B"] = "1F1B"
    """Pipeline schedule; Interleaved1F1B has two stages per rank."""

    pipeline_parallel_microbatch_size: Annotated[int, Bounds(at_least=1)] = 1
    """Packs per pipeline microbatch; a divisor of training.local_batch_packs."""

    pipeline_parallel_first_stage_less_layers: Annotated[int, Bounds(at_least=0)] = 1
    """Cost of the embedding, in layers, when layers are divided among stages."""

    pipeline_parallel_last_stage_less_layers: Annotated[int, Bounds(at_least=0)] = 1
    """Cost of the output head, in layers; with an extended vocabulary it is 3.6 layers of an 8B."""

    context_parallel_degree: Degree = 1
    """Ranks that share each pack, split along the sequence."""

    context_parallel_load_balancer: Literal["headtail", "ptrr", "none"] = "headtail"
    """How a pack is split. headtail: each rank gets an early and a late chunk; ptrr: blocks of 128 tokens are dealt by
    how many tokens they attend to; none: in order, which suits packs of many short documents."""


@dataclass(frozen=True, kw_only=True)
class ActivationCheckpointConfig:
    """Activation checkpointing: recompute activations in the backward pass to save memory."""

    kind: Literal["none", "selective", "full", "memory_budget"] = "selective"
    """none: keep all activations; selective: recompute the cheap ones and every second matrix product; full: recompute
    every layer; memory_budget: the compiler chooses."""

    memory_budget: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.5
    """For kind memory_budget: 0 keeps as little as full, 1 as much as the compiler would keep."""


@dataclass(frozen=True, kw_only=True)
class CompileConfig:
    """torch.compile. All packs have one length, so each layer is compiled once, in fine-tuning too."""

    enable: bool = False
    """Enable torch.compile."""

    components: tuple[Literal["model", "loss"], ...] = ("model", "loss")
    """What is compiled: model (its layers), loss (of one chunk)."""

    enable_async_tensor_parallel: bool = False
    """Overlap tensor-parallel communication with matrix products (CUDA, compiled layers)."""


@dataclass(frozen=True, kw_only=True)
class Float8Config:
    """Matrix products in float8 (torchao), on devices of compute capability 8.9 (L40S, H100) or later."""

    recipe: Literal["none", "rowwise", "rowwise_with_gw_hp", "tensorwise"] = "none"
    """rowwise: one scale per row; rowwise_with_gw_hp: the same with weight gradients in high precision; tensorwise: one
    scale per matrix, the fastest and least exact; none: no float8."""

    filter_fqns: tuple[str, ...] = ("lm_head",)
    """Linear layers whose name contains one of these are not converted; the embedding never is."""

    emulate: bool = False
    """Round as float8 does and multiply in high precision, on any device and much slower; not with compile."""


@dataclass(frozen=True, kw_only=True)
class CommConfig:
    """Timeouts of collectives."""

    init_timeout_seconds: Annotated[int, Bounds(at_least=1)] = 300
    """Timeout during start-up and the first step."""

    train_timeout_seconds: Annotated[int, Bounds(at_least=1)] = 100
    """Timeout after the first step."""
