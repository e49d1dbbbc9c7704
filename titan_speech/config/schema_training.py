"""The backbone and the tokenizer of its text.

The budget in tokens, the optimizer and its schedule, the loss.

How a step is spread over ranks and kernels: parallelism, recomputation, compiling, float8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, with its vocabulary grown by the speech tokens."""

    family: Literal["llama3", "qwen3"] = "llama3"
    """Backbone family."""

    flavor: str = "debug"
    """Size within the family: debug, debug_untied, 0.6B, 1B, 1.7B, 8B (those the family has), or initial: the sizes of
    model.initial."""

    initial: str = ""
    """Hugging Face folder whose weights a run without checkpoints starts from: a backbone as it was published, which
    is grown on the fly, or one that `titan-speech model expand` grew. Empty: weights are drawn."""

    new_rows: Literal["mean_cov", "mean", "normal"] = "mean_cov"
    """Where rows of new tokens come from when model.initial is grown: mean and covariance of its rows, their mean, or a
    plain normal."""

    new_rows_scale: float = 0.01
    """Factor of the covariance of new rows."""

    attention: Literal["auto", "flex", "varlen", "dense"] = "auto"
    """Attention back end: flex or varlen (CUDA), dense (a mask and SDPA, memory grows with the square of seq_len); auto
    is flex on CUDA and dense on a CPU."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The backbone's text tokenizer."""

    path: str = "tokenizer/tiny"
    """Folder with tokenizer.json; its fingerprint must equal the one the stores were built with."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Budget in tokens; steps and accumulation are derived."""

    seq_len: int = 2048
    """Tokens in one pack."""

    global_batch_tokens: int = 524_288
    """Tokens in one optimizer step over all ranks; a multiple of seq_len."""

    target_tokens: int = 1_000_000_000
    """Tokens of the whole stage; steps = ceil(target_tokens / global_batch_tokens)."""

    local_batch_packs: int = 8
    """Packs one data-parallel rank computes at once; accumulation follows from it."""

    max_norm: float = 1.0
    """Gradient norm clip."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of parameters, gradients and optimizer state."""

    mixed_precision_param: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type of the parameters; the fp32 master weights stay."""

    cuda_graphs: bool = False
    """Capture the forward and backward pass in a CUDA graph (CUDA only; elsewhere nothing is captured)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; no decay on norms and biases."""

    lr: float = 1.2e-4
    """Peak learning rate."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW betas."""

    eps: float = 1e-8
    """AdamW eps."""

    weight_decay: float = 0.1
    """Decoupled weight decay of matrices."""

    new_rows_lr_factor: float = 1.0
    """Learning rate of the vocabulary rows that are not the backbone's (codes, specials), as a multiple of lr."""

    frozen_backbone_ratio: float = 0.0
    """Part of the steps, at the beginning, in which only these new rows learn and the backbone stays as it is."""

    implementation: Literal["fused", "foreach", "for-loop"] = "fused"
    """Optimizer kernel."""


@dataclass(frozen=True, kw_only=True)
class LRSchedulerConfig:
    """Linear warmup, then decay from optimizer.lr to end_lr over the rest of the stage."""

    warmup_ratio: float = 0.1
    """Part of the steps spent in warmup."""

    end_lr: float = 3e-5
    """Learning rate of the last step."""

    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Cross entropy over the grown vocabulary."""

    num_chunks: int = 8
    """Chunks of the sequence for which logits exist at once; 1 computes them whole."""


@dataclass(frozen=True, kw_only=True)
class ParallelismConfig:
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
class ActivationCheckpointConfig:
    """Trading compute for activation memory."""

    kind: Literal["none", "selective", "full", "memory_budget"] = "selective"
    """none keeps all activations, selective recomputes the cheap ones and every second matrix product, full recomputes
    every layer, memory_budget lets the compiler choose."""

    memory_budget: float = 0.5
    """With memory_budget: 0 keeps as little as full, 1 as much as the compiler likes."""


@dataclass(frozen=True, kw_only=True)
class CompileConfig:
    """torch.compile. Packs have one length, so each layer is compiled once, in every stage, fine-tuning too."""

    enable: bool = False
    """Compile."""

    components: tuple[Literal["model", "loss"], ...] = ("model", "loss")
    """What is compiled: the layers, the loss of a chunk."""

    enable_async_tensor_parallel: bool = False
    """Overlap tensor-parallel communication with matrix products (CUDA, compiled layers)."""


@dataclass(frozen=True, kw_only=True)
class Float8Config:
    """Matrix products in float8 (torchao), on devices of compute capability 8.9 (L40S, H100) or later."""

    recipe: Literal["none", "rowwise", "rowwise_with_gw_hp", "tensorwise"] = "none"
    """none; rowwise scales each row, rowwise_with_gw_hp also keeps gradients of weights in high precision; tensorwise
    has one scale a matrix, fastest and least exact."""

    filter_fqns: tuple[str, ...] = ("lm_head",)
    """Linear layers whose name contains one of these stay as they are; the embedding always does."""

    emulate: bool = False
    """Round as float8 would and multiply in high precision, on any device and much slower; not with compile."""
