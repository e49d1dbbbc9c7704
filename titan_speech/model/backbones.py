"""Sizes of the backbones, by family and flavor.

In: family and flavor. Out: a `BackboneShape`, the one description of an architecture from which Hugging Face folders
and TorchTitan configurations are made. It leaves out the vocabulary, which is extended while the backbone is not.

Sizes of 0.6B to 8B are the published ones (config.json of each model). `debug` is ours: under 10 M parameters at a
vocabulary of 69,760 rows (6.7 M of them the tied embedding), so that a CPU can train it. `debug_untied` has a head of
its own and 14 M parameters, as pipelines need; `debug_head32` has heads of 32, the least that vLLM runs on a CPU, and
10 M. Nothing here imports torch: a configuration is checked against these
sizes before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

from titan_speech.config.schema_training import LoRAConfig
from titan_speech.errors import ConfigError

Family = Literal["llama3", "qwen3"]

PAIRS, HALVES = "pairs", "halves"
"""Order of the rows of a head of queries or keys: neighbours are rotated together (TorchTitan's Llama, and ours before
rotary.py), or the two halves of a head (Hugging Face, Qwen, and ours)."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's scaling of rotary frequencies beyond the sequence length of its first training."""

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, kw_only=True)
class BackboneShape:
    """A dense decoder with grouped-query attention, RMS norms and a gated feed-forward layer."""

    family: Family
    num_layers: int
    dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_dim: int
    """Width of the feed-forward layer."""
    rope_theta: float
    norm_eps: float
    is_tied: bool
    """Output head and embedding share one matrix."""
    max_positions: int
    rope_scaling: RopeScaling | None = None

    @property
    def has_qk_norm(self) -> bool:
        """Whether queries and keys are normalized per head."""
        return self.family == "qwen3"

    def num_parameters(self, num_rows: int) -> int:
        """Number of parameters with a vocabulary of `num_rows`, from the sizes alone."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.dim * (queries + 2 * keys) + queries * self.dim
        norms = 2 * self.dim + (2 * self.head_dim if self.has_qk_norm else 0)
        layer = attention + 3 * self.dim * self.hidden_dim + norms
        return self.num_layers * layer + self.dim + num_rows * self.dim * (1 if self.is_tied else 2)

    @property
    def matrix_widths(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each matrix of a layer that can have a LoRA adapter, by the last part of its name."""
        queries, keys_values = self.num_heads * self.head_dim, 2 * self.num_kv_heads * self.head_dim
        return {
            "wqkv": (self.dim, queries + keys_values),
            "wo": (queries, self.dim),
            "w1": (self.dim, self.hidden_dim),
            "w2": (self.hidden_dim, self.dim),
            "w3": (self.dim, self.hidden_dim),
        }

    def num_adapter_parameters(self, lora: LoRAConfig) -> int:
        """Number of parameters that LoRA adds to the backbone's own; 0 without LoRA."""
        adapted = (sum(widths) for name, widths in self.matrix_widths.items() if name in lora.targets)
        return self.num_layers * lora.rank * sum(adapted)

    def num_trained_parameters(self, num_rows: int, lora: LoRAConfig) -> int:
        """Number of parameters that have gradients and optimizer state: all, or adapters and, if rows of it are
        trained, the vocabulary."""
        if not lora.is_on:
            return self.num_parameters(num_rows)
        vocabulary = num_rows * self.dim * (1 if self.is_tied else 2)
        return self.num_adapter_parameters(lora) + (vocabulary if lora.train_new_rows else 0)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> BackboneShape:
        """The inverse of `dataclasses.asdict`."""
        scaling = record["rope_scaling"]
        return cls(**{**record, "rope_scaling": None if scaling is None else RopeScaling(**scaling)})

    def differences(self, other: BackboneShape) -> list[str]:
        """The sizes that differ from `other`, each with both values; `max_positions` is not compared."""
        mine = replace(self, max_positions=other.max_positions)
        return [
            f"{field.name} {getattr(mine, field.name)} against {getattr(other, field.name)}"
            for field in fields(BackboneShape)
            if getattr(mine, field.name) != getattr(other, field.name)
        ]


_llama3 = partial(
    BackboneShape,
    family="llama3",
    head_dim=128,
    num_kv_heads=8,
    rope_theta=500_000.0,
    norm_eps=1e-5,
    max_positions=131_072,
)
_qwen3 = partial(
    BackboneShape,
    family="qwen3",
    is_tied=True,
    head_dim=128,
    num_kv_heads=8,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    max_positions=40_960,
)
_DEBUG: dict[str, Any] = {
    "num_layers": 4,
    "dim": 96,
    "num_heads": 4,
    "num_kv_heads": 2,
    "hidden_dim": 256,
    "norm_eps": 1e-5,
    "max_positions": 8192,
}
FLAVORS: dict[str, dict[str, BackboneShape]] = {
    "llama3": {
        "debug": _llama3(**_DEBUG, head_dim=24, is_tied=True),
        "debug_untied": _llama3(**_DEBUG, head_dim=24, is_tied=False),
        "debug_head32": _llama3(**{**_DEBUG, "dim": 128}, head_dim=32, is_tied=True),
        "1B": _llama3(  # Llama-3.2-1B
            num_layers=16,
            dim=2048,
            num_heads=32,
            head_dim=64,
            hidden_dim=8192,
            is_tied=True,
            rope_scaling=RopeScaling(factor=32.0),
        ),
        "8B": _llama3(  # Llama-3.1-8B
            num_layers=32,
            dim=4096,
            num_heads=32,
            hidden_dim=14_336,
            is_tied=False,
            rope_scaling=RopeScaling(factor=8.0),
        ),
    },
    "qwen3": {
        "debug": _qwen3(**_DEBUG, head_dim=32),  # heads wider than dim / heads, as in the family
        "debug_untied": _qwen3(**_DEBUG, head_dim=32, is_tied=False),
        "0.6B": _qwen3(num_layers=28, dim=1024, num_heads=16, hidden_dim=3072),
        "1.7B": _qwen3(num_layers=28, dim=2048, num_heads=16, hidden_dim=6144),
    },
}


def published_shape(family: str, flavor: str) -> BackboneShape:
    """The sizes of a flavor.

    Raises:
        ConfigError: there is no such family, or it has no such flavor.
    """
    if flavor not in FLAVORS.get(family, {}):
        known = "; ".join(f"{name}: {', '.join(flavors)}" for name, flavors in FLAVORS.items())
        raise ConfigError(f"[model] family = {family!r}, flavor = {flavor!r}: no such backbone. Known are {known}.")
    return FLAVORS[family][flavor]
