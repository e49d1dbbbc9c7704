"""Backbones by family and flavor, at their published sizes, with the vocabulary grown to `num_rows`.

In: family, flavor, number of vocabulary rows, attention back end. Out: a TorchTitan decoder configuration. The sizes
of 0.6B to 8B are TorchTitan's, corrected where the published configuration differs; `debug` is ours: under 10 M
parameters at a vocabulary of 69,760 rows (of which 6.7 M are the tied embedding), so that a CPU can train it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from torch import nn
from torchtitan.models.common import ComplexRoPE, CosSinRoPE, Embedding, Linear
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.common.nn_modules import RMSNorm
from torchtitan.models.common.param_init import depth_scaled_std, skip_param_init
from torchtitan.models.llama3 import Llama3Model, llama3_configs
from torchtitan.models.llama3.model import Llama3TransformerBlock
from torchtitan.models.qwen3 import Qwen3Model, qwen3_configs
from torchtitan.models.qwen3.model import Qwen3TransformerBlock
from torchtitan.protocols.module import Module

from titan_speech.errors import ConfigError

DEBUG_DIM, DEBUG_LAYERS, DEBUG_HEADS, DEBUG_KV_HEADS, DEBUG_HIDDEN = 96, 4, 4, 2, 256
INIT_STD = 0.02

Builder = Callable[[], Decoder.Config]


def _llama3_1b() -> Decoder.Config:
    """Llama-3.2-1B: its published rope scaling factor is 32; TorchTitan's 1B keeps Llama-3.1's 8."""
    config = llama3_configs["1B"](attn_backend="flex")
    for layer in config.layers:
        layer.attention.rope = dataclasses.replace(layer.attention.rope, scaling_factor=32.0)
    return config


def _debug_layer(family: str, layer_id: int) -> Module.Config:
    """One small layer of the family: Qwen3 normalises queries and keys and has heads wider than dim / heads."""
    is_qwen = family == "qwen3"
    head_dim = 32 if is_qwen else DEBUG_DIM // DEBUG_HEADS
    block = Qwen3TransformerBlock if is_qwen else Llama3TransformerBlock
    rope = (CosSinRoPE if is_qwen else ComplexRoPE).Config(
        dim=head_dim, max_seq_len=8192, theta=1_000_000.0 if is_qwen else 500_000.0
    )
    init = {"weight": partial(nn.init.trunc_normal_, std=INIT_STD)}
    output_init = {"weight": partial(nn.init.trunc_normal_, std=depth_scaled_std(INIT_STD, layer_id))}
    return block.Config(
        attention_norm=_norm(DEBUG_DIM),
        ffn_norm=_norm(DEBUG_DIM),
        attention=make_gqa_config(
            dim=DEBUG_DIM,
            n_heads=DEBUG_HEADS,
            n_kv_heads=DEBUG_KV_HEADS,
            head_dim=head_dim if is_qwen else None,
            wqkv_param_init=init,
            wo_param_init=output_init,
            inner_attention=Module.Config(),  # replaced in `grown`
            fuse_qkv=True,
            rope=rope,
            qk_norm=_norm(head_dim) if is_qwen else None,
        ),
        feed_forward=make_ffn_config(
            dim=DEBUG_DIM, hidden_dim=DEBUG_HIDDEN, w1_param_init=init, w2w3_param_init=output_init
        ),
    )


def _norm(width: int) -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=width, eps=1e-5, param_init={"weight": nn.init.ones_})


def _debug(family: str) -> Decoder.Config:
    model = Qwen3Model if family == "qwen3" else Llama3Model
    return model.Config(
        dim=DEBUG_DIM,
        vocab_size=1,  # grown in `grown`
        enable_weight_tying=True,
        tok_embeddings=Embedding.Config(
            num_embeddings=1, embedding_dim=DEBUG_DIM, param_init={"weight": skip_param_init}
        ),
        norm=_norm(DEBUG_DIM),
        lm_head=Linear.Config(
            in_features=DEBUG_DIM,
            out_features=1,
            param_init={"weight": partial(nn.init.trunc_normal_, std=INIT_STD)},
        ),
        layers=[_debug_layer(family, layer_id) for layer_id in range(DEBUG_LAYERS)],
    )


FLAVORS: dict[str, dict[str, Builder]] = {
    "llama3": {
        "debug": partial(_debug, "llama3"),
        "1B": _llama3_1b,
        "8B": partial(llama3_configs["8B"], attn_backend="flex"),
    },
    "qwen3": {
        "debug": partial(_debug, "qwen3"),
        "0.6B": partial(qwen3_configs["0.6B"], attn_backend="flex"),
        "1.7B": partial(qwen3_configs["1.7B"], attn_backend="flex"),
    },
}


def decoder_config(family: str, flavor: str, num_rows: int, attention: Module.Config) -> Decoder.Config:
    """Decoder configuration of a backbone with `num_rows` vocabulary rows.

    Raises:
        ConfigError: the family has no such flavor.
    """
    if flavor not in FLAVORS.get(family, {}):
        known = "; ".join(f"{name}: {', '.join(flavors)}" for name, flavors in FLAVORS.items())
        raise ConfigError(f"[model] family = {family!r}, flavor = {flavor!r}: no such backbone. Known are {known}.")
    return _grown(FLAVORS[family][flavor](), num_rows, attention)


def _grown(config: Decoder.Config, num_rows: int, attention: Module.Config) -> Decoder.Config:
    for layer in config.layers:
        layer.attention.inner_attention = attention
    return dataclasses.replace(
        config,
        vocab_size=num_rows,
        tok_embeddings=dataclasses.replace(config.tok_embeddings, num_embeddings=num_rows),
        lm_head=dataclasses.replace(config.lm_head, out_features=num_rows),
    )
