"""The TorchTitan configuration of a backbone.

In: a `BackboneShape`, vocabulary rows, the attention back end. Out: a TorchTitan decoder configuration, initialisation
included; it is built by TorchTitan.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torchtitan.models.common import ComplexRoPE, CosSinRoPE, Embedding, Linear
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.param_init import depth_scaled_std, skip_param_init
from torchtitan.models.common.rope import RoPE
from torchtitan.models.llama3.model import Llama3TransformerBlock
from torchtitan.models.qwen3.model import Qwen3TransformerBlock
from torchtitan.protocols.module import Module

from titan_speech.model.shape import BackboneShape
from titan_speech.model.tying import TiedLlama3, TiedQwen3

INIT_STD = 0.02


def decoder_config(shape: BackboneShape, num_rows: int, attention: Module.Config) -> Decoder.Config:
    """Decoder configuration of a backbone with `num_rows` vocabulary rows."""
    model = TiedQwen3 if shape.family == "qwen3" else TiedLlama3
    head = {"weight": partial(nn.init.trunc_normal_, std=INIT_STD)}
    embedding = {"weight": skip_param_init if shape.is_tied else partial(nn.init.normal_, std=INIT_STD)}
    rope = _rope(shape)
    return model.Config(
        dim=shape.dim,
        vocab_size=num_rows,
        enable_weight_tying=shape.is_tied,
        tok_embeddings=Embedding.Config(num_embeddings=num_rows, embedding_dim=shape.dim, param_init=embedding),
        norm=_norm(shape, shape.dim),
        lm_head=Linear.Config(in_features=shape.dim, out_features=num_rows, param_init=head),
        layers=[_layer(shape, layer_id, rope, attention) for layer_id in range(shape.num_layers)],
    )


def _layer(shape: BackboneShape, layer_id: int, rope: RoPE.Config, attention: Module.Config) -> Module.Config:
    """One layer; output projections start smaller with depth, so that the residual stream keeps its scale."""
    block = Qwen3TransformerBlock if shape.family == "qwen3" else Llama3TransformerBlock
    init = {"weight": partial(nn.init.trunc_normal_, std=INIT_STD)}
    output_init = {"weight": partial(nn.init.trunc_normal_, std=depth_scaled_std(INIT_STD, layer_id))}
    return block.Config(
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
    kind = CosSinRoPE if shape.family == "qwen3" else ComplexRoPE
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
