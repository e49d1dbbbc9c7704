"""The cases of train_step that need GPUs: which file, what is changed in it, whose published run it stands beside.

In: nothing. Out: `GpuCase`s. float8 is tensorwise, the fastest recipe and the published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FLOAT8 = {"float8.recipe": "tensorwise"}


@dataclass(frozen=True)
class GpuCase:
    """One configuration that is measured on GPUs only."""

    name: str
    what: str
    config: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    is_replicated: bool = False
    """Whole weights on each GPU; else sharded over all."""

    has_rival: bool = False
    """Plain TorchTitan is measured at the same size, too."""

    def words(self, world_size: int) -> dict[str, str]:
        """Overrides at that number of GPUs."""
        if not self.is_replicated:
            return dict(self.overrides)
        replicas = {"parallelism.data_parallel_replicate_degree": str(world_size)}
        return {**self.overrides, **replicas, "parallelism.data_parallel_shard_degree": "1"}


def _file(name: str) -> str:
    return f"benchmarks/settings/{name}.toml"


GPU_CASES = (
    GpuCase(
        "pt_1b", "pretraining, 1.370 B, bf16, DDP, compiled", _file("pt_1b"), {}, is_replicated=True, has_rival=True
    ),
    GpuCase("pt_1b_float8", "the same with float8 layers", _file("pt_1b"), FLOAT8, is_replicated=True),
    GpuCase("sft_1b", "fine-tuning, 1.370 B, bf16, DDP, packed, compiled", _file("sft_1b"), is_replicated=True),
    GpuCase("pt_8b", "pretraining, 8.568 B, bf16, FSDP, compiled", _file("pt_8b"), has_rival=True),
    GpuCase("pt_8b_float8", "the same with float8 layers", _file("pt_8b"), FLOAT8),
    GpuCase("sft_8b", "fine-tuning, 8.568 B, bf16, ZeRO-2, packed, compiled", _file("sft_8b")),
)
