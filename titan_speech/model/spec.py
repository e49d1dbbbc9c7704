"""A backbone as a TorchTitan `ModelSpec`: what its trainer needs to build, parallelize and pipeline the model.

In: a `BackboneShape`, the number of vocabulary rows, the attention back end. Out: the decoder configuration with its
initialization, and the specification; building and parallelization are TorchTitan's.

The decoders are subclasses that keep embedding and head one matrix under FSDP. TorchTitan ties them when it builds a
model, makes two parameters of the one when it distributes them, and ties them again when it initializes the weights; in
between, FSDP kept two shards of the same matrix. The shards share memory only if the rows divide by their number: on 3
ranks (6, 12, 24, ...) the rows of the last rank were padded into copies, and its head or embedding was never updated.
They also keep frozen what was frozen: TorchTitan 0.3 makes new parameters when it distributes a model, all of them
trainable, so that LoRA would train every weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import CosSinRoPE, Embedding, Linear
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.param_init import depth_scaled_std, skip_param_init
from torchtitan.models.common.rope import RoPE
from torchtitan.models.llama3 import Llama3Model, parallelize_llama
from torchtitan.models.llama3.model import Llama3TransformerBlock
from torchtitan.models.qwen3 import Qwen3Model, parallelize_qwen3
from torchtitan.models.qwen3.model import Qwen3TransformerBlock
from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.protocols.module import Module

from titan_speech.config.schema_parallelism import Float8Config
from titan_speech.config.schema_training import LoRAConfig
from titan_speech.model.attention import attention_config
from titan_speech.model.backbones import BackboneShape, Family
from titan_speech.model.lora import add_adapters
from titan_speech.model.rotary import LlamaRoPE

INIT_STD = 0.02


class _TiedDecoder(Decoder):
    """A decoder that stays tied, and frozen where it is, when it is distributed."""

    def parallelize(self, parallel_dims: ParallelDims) -> None:
        named = self.named_parameters(remove_duplicate=False)
        frozen = {name for name, parameter in named if not parameter.requires_grad}
        super().parallelize(parallel_dims)
        if self.enable_weight_tying and self.tok_embeddings is not None and self.lm_head is not None:
            self.tok_embeddings.weight = self.lm_head.weight
        for name, parameter in self.named_parameters(remove_duplicate=False):
            if name in frozen:
                parameter.requires_grad_(False)


class TiedLlama3(_TiedDecoder, Llama3Model):
    @dataclass(kw_only=True, slots=True)
    class Config(Llama3Model.Config):
        pass


class TiedQwen3(_TiedDecoder, Qwen3Model):
    @dataclass(kw_only=True, slots=True)
    class Config(Qwen3Model.Config):
        pass


@dataclass(frozen=True)
class _Family:
    """What TorchTitan has for the backbones of one family."""

    model: type[TiedLlama3 | TiedQwen3]
    block: type[Llama3TransformerBlock | Qwen3TransformerBlock]
    rope: type[LlamaRoPE | CosSinRoPE]
    parallelize: Callable[..., nn.Module]


_FAMILIES: dict[Family, _Family] = {
    "llama3": _Family(TiedLlama3, Llama3TransformerBlock, LlamaRoPE, parallelize_llama),
    "qwen3": _Family(TiedQwen3, Qwen3TransformerBlock, CosSinRoPE, parallelize_qwen3),
}


def decoder_config(shape: BackboneShape, num_rows: int, attention: Module.Config) -> Decoder.Config:
    """Decoder configuration of a backbone with `num_rows` vocabulary rows."""
    head = {"weight": partial(nn.init.trunc_normal_, std=INIT_STD)}
    embedding = {"weight": skip_param_init if shape.is_tied else partial(nn.init.normal_, std=INIT_STD)}
    rope = _rope(shape)
    return _FAMILIES[shape.family].model.Config(
        dim=shape.dim,
        vocab_size=num_rows,
        enable_weight_tying=shape.is_tied,
        tok_embeddings=Embedding.Config(num_embeddings=num_rows, embedding_dim=shape.dim, param_init=embedding),
        norm=_norm(shape, shape.dim),
        lm_head=Linear.Config(in_features=shape.dim, out_features=num_rows, param_init=head),
        layers=[_layer(shape, layer_id, rope, attention) for layer_id in range(shape.num_layers)],
    )


def _layer(shape: BackboneShape, layer_id: int, rope: RoPE.Config, attention: Module.Config) -> Module.Config:
    """One layer; output projections are initialized smaller with depth, so that the residual stream keeps its scale."""
    init = {"weight": partial(nn.init.trunc_normal_, std=INIT_STD)}
    output_init = {"weight": partial(nn.init.trunc_normal_, std=depth_scaled_std(INIT_STD, layer_id))}
    return _FAMILIES[shape.family].block.Config(
        attention_norm=_norm(shape, shape.dim),
        ffn_norm=_norm(shape, shape.dim),
        attention=make_gqa_config(
            dim=shape.dim,
            n_heads=shape.num_heads,
            n_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            wqkv_param_init=init,
            wo_param_init=output_init,
            inner_attention=attention,
            fuse_qkv=True,
            rope=rope,
            qk_norm=_norm(shape, shape.head_dim) if shape.has_qk_norm else None,
        ),
        feed_forward=make_ffn_config(
            dim=shape.dim, hidden_dim=shape.hidden_dim, w1_param_init=init, w2w3_param_init=output_init
        ),
    )


def _rope(shape: BackboneShape) -> RoPE.Config:
    kind = _FAMILIES[shape.family].rope
    base = {"dim": shape.head_dim, "max_seq_len": shape.max_positions, "theta": shape.rope_theta}
    scaling = shape.rope_scaling
    if scaling is None:
        return kind.Config(**base)
    return kind.Config(
        **base,
        scaling="llama",
        scaling_factor=scaling.factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_max_position_embeddings=scaling.original_max_positions,
    )


def _norm(shape: BackboneShape, width: int) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=width, eps=shape.norm_eps, param_init={"weight": nn.init.ones_})


HFAdapter = Qwen3StateDictAdapter
"""To and from Hugging Face's names, of both families: it leaves the order of rows as it is, which is Hugging Face's
(rotary.py). TorchTitan's adapter for Llama would reorder them for the complex form."""


def model_spec(
    shape: BackboneShape,
    attention: str,
    num_rows: int,
    float8: Float8Config | None = None,
    lora: LoRAConfig | None = None,
    *,
    compiles_layers: bool = False,
) -> ModelSpec:
    """The model specification of a backbone with an extended vocabulary.

    Args:
        shape: sizes of the backbone.
        attention: name of the attention back end.
        num_rows: vocabulary rows.
        float8: settings of float8; None leaves the layers as they are.
        lora: settings of the adapters; None trains all weights.
        compiles_layers: whether TorchTitan compiles the layers.

    Raises:
        ConfigError: the attention back end cannot run here, or float8 has no layer to convert.
    """
    config = decoder_config(shape, num_rows, attention_config(attention))
    if float8 is not None and float8.recipe != "none":
        from titan_speech.model.float8 import convert_to_float8

        config = convert_to_float8(config, float8, compiles_layers=compiles_layers)
    if lora is not None and lora.is_on:
        config = add_adapters(config, lora)
    parallelize = _FAMILIES[shape.family].parallelize
    if not torch.cuda.is_available():
        from titan_speech.utils import cpu

        cpu.initialize_identically(config)
        parallelize = cpu.use_plain_sum_reduction(cpu.initialize_adapters_identically(parallelize))
    return ModelSpec(
        name=shape.family,
        flavor=f"{shape.num_layers}x{shape.dim}",
        model=config,
        parallelize_fn=parallelize,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=HFAdapter,
    )
