"""The sizes of a backbone, as its published configuration gives them.

In: nothing. Out: `BackboneShape`, the one description of an architecture that flavors, Hugging Face folders and
TorchTitan configurations are all made from. It leaves out the vocabulary: that grows, the backbone does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

Family = Literal["llama3", "qwen3"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of rotary frequencies beyond the length it was first trained at."""

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
    """Output head and embedding are one matrix."""
    max_positions: int
    rope_scaling: RopeScaling | None = None

    @property
    def has_qk_norm(self) -> bool:
        return self.family == "qwen3"

    def num_parameters(self, num_rows: int) -> int:
        """Parameters with a vocabulary of `num_rows`, counted from the shapes alone."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.dim * (queries + 2 * keys) + queries * self.dim
        norms = 2 * self.dim + (2 * self.head_dim if self.has_qk_norm else 0)
        layer = attention + 3 * self.dim * self.hidden_dim + norms
        return self.num_layers * layer + self.dim + num_rows * self.dim * (1 if self.is_tied else 2)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> BackboneShape:
        """The inverse of `dataclasses.asdict`."""
        scaling = record["rope_scaling"]
        return cls(**{**record, "rope_scaling": None if scaling is None else RopeScaling(**scaling)})

    def differences(self, other: BackboneShape) -> list[str]:
        """What differs from `other`, each with both values; positions count as no difference."""
        mine = replace(self, max_positions=other.max_positions)
        return [
            f"{field.name} {getattr(mine, field.name)} against {getattr(other, field.name)}"
            for field in fields(BackboneShape)
            if getattr(mine, field.name) != getattr(other, field.name)
        ]
