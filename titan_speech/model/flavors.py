"""Backbones by family and flavor, and the TorchTitan configuration of any shape.

In: family and flavor, or a `BackboneShape` read elsewhere; vocabulary rows; attention back end. Out: a TorchTitan
decoder configuration. Sizes of 0.6B to 8B are the published ones (config.json of each model); `debug` is ours: under
10 M parameters at a vocabulary of 69,760 rows (of which 6.7 M are the tied embedding), so that a CPU can train it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torchtitan.models.common import ComplexRoPE, CosSinRoPE, Embedding, Linear
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.param_init import depth_scaled_std, skip_param_init
from torchtitan.models.common.rope import RoPE
from torchtitan.models.llama3 import Llama3Model
from torchtitan.models.llama3.model import Llama3TransformerBlock
from torchtitan.models.qwen3 import Qwen3Model
from torchtitan.models.qwen3.model import Qwen3TransformerBlock
from torchtitan.protocols.module import Module

from titan_speech.errors import ConfigError
from titan_speech.model.shape import BackboneShape, RopeScaling

INIT_STD = 0.02


def _llama3(**sizes: Any) -> BackboneShape:
    shared = {"head_dim": 128, "num_kv_heads": 8, "rope_theta": 500_000.0, "norm_eps": 1e-5, "max_positions": 131_072}
    return BackboneShape(family="llama3", **(shared | sizes))


def _qwen3(**sizes: Any) -> BackboneShape:
    shared = {"head_dim": 128, "num_kv_heads": 8, "rope_theta": 1_000_000.0, "norm_eps": 1e-6, "max_positions": 40_960}
    return BackboneShape(family="qwen3", is_tied=True, **(shared | sizes))


_DEBUG = {
    **{"num_layers": 4, "dim": 96, "num_heads": 4, "num_kv_heads": 2, "hidden_dim": 256},
    **{"norm_eps": 1e-5, "max_positions": 8192},
}
FLAVORS: dict[str, dict[str, BackboneShape]] = {
    "llama3": {
        "debug": _llama3(**_DEBUG, head_dim=24, is_tied=True),
        "1B": _llama3(  # Llama-3.2-1B
            **{"num_layers": 16, "dim": 2048, "num_heads": 32, "head_dim": 64, "hidden_dim": 8192, "is_tied": True},
            rope_scaling=RopeScaling(factor=32.0),
        ),
        "8B": _llama3(  # Llama-3.1-8B
            **{"num_layers": 32, "dim": 4096, "num_heads": 32, "hidden_dim": 14_336, "is_tied": False},
            rope_scaling=RopeScaling(factor=8.0),
        ),
    },
    "qwen3": {
        "debug": _qwen3(**_DEBUG, head_dim=32),  # wider heads than dim / heads, as the family has
        "0.6B": _qwen3(num_layers=28, dim=1024, num_heads=16, hidden_dim=3072),
        "1.7B": _qwen3(num_layers=28, dim=2048, num_heads=16, hidden_dim=6144),
    },
}


def published_shape(family: str, flavor: str) -> BackboneShape:
    """Sizes of a flavor.

    Raises:
        ConfigError: the family has no such flavor.
    """
    if flavor not in FLAVORS.get(family, {}):
        known = "; ".join(f"{name}: {', '.join(flavors)}" for name, flavors in FLAVORS.items())
        raise ConfigError(f"[model] family = {family!r}, flavor = {flavor!r}: no such backbone. Known are {known}.")
    return FLAVORS[family][flavor]


def decoder_config(shape: BackboneShape, num_rows: int, attention: Module.Config) -> Decoder.Config:
    """Decoder configuration of a backbone with `num_rows` vocabulary rows."""
    model = Qwen3Model if shape.family == "qwen3" else Llama3Model
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
