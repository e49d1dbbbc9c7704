"""LoRA adapters: TorchTitan's converter on a decoder configuration, which weights are the adapter's, and merging them.

In: a decoder configuration and the [lora] settings. Out: the configuration with a pair of low-rank matrices next to
each target, everything else frozen; or, of a model that has them, their sum with the matrices they adapt.

A target is the last part of a layer's name. `wqkv` is queries, keys and values in one, so the three share the first
matrix of the pair and have rows of their own in the second. The head is never a target: its rows are trained as new
vocabulary rows or not at all. An adapter of rank r has r * (inputs + outputs) parameters per target: 1B at rank 16 has
10.2 M, 0.7 % of the model.

Shapes: O outputs, I inputs of a matrix, R the rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torchtitan.components.lora import LoRAConverter
from torchtitan.models.common.decoder import Decoder

from titan_speech.config.schema_training import LoRAConfig
from titan_speech.model.new_rows import VOCABULARY_MATRICES

ADAPTER_A, ADAPTER_B = ".lora_a.weight", ".lora_b.weight"


def add_adapters(decoder: Decoder.Config, lora: LoRAConfig) -> Decoder.Config:
    """The decoder configuration with adapters; embedding and head stay trainable if new rows are trained."""
    embedding, head = decoder.tok_embeddings, decoder.lm_head
    converter = LoRAConverter.Config(rank=lora.rank, alpha=lora.alpha, target_modules=list(lora.targets)).build()
    converted = cast(Decoder.Config, converter.convert(decoder))
    if lora.train_new_rows:
        converted.tok_embeddings, converted.lm_head = embedding, head
    return converted


def is_trained(name: str, lora: LoRAConfig) -> bool:
    """Whether a checkpoint of a LoRA run holds the weight of this name."""
    return name.endswith((ADAPTER_A, ADAPTER_B)) or (lora.train_new_rows and name.endswith(VOCABULARY_MATRICES))


def is_of_base(name: str) -> bool:
    """Whether the base has a weight of this name."""
    return not name.endswith((ADAPTER_A, ADAPTER_B))


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear, torch.Tensor, torch.Tensor, float]]:
    """Name, matrix [O, I], first [R, I] and second [O, R] matrix of the adapter, and scale, of each target."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and hasattr(module, "lora_a"):
            lora_a, lora_b = cast(nn.Linear, module.lora_a), cast(nn.Linear, module.lora_b)
            yield name, module, lora_a.weight, lora_b.weight, cast(float, module._lora_scaling)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model computes what its base does, inside the block."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and hasattr(module, "lora_a")]
    scales = [cast(float, layer._lora_scaling) for layer in layers]
    for layer in layers:
        layer._lora_scaling = 0.0  # pyright: ignore[reportArgumentType]  (a plain attribute of TorchTitan's layer)
    try:
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer._lora_scaling = scale  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add every adapter to its matrix and set it to zero, so that the model computes the same; not for shards."""
    for _, layer, a_RI, b_OR, scale in adapted_layers(model):
        layer.weight.add_(scale * (b_OR @ a_RI))
        b_OR.zero_()
