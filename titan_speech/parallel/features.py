"""What a run may have switched on: the rows and columns of the table of what goes together.

In: a configuration and, where they are known by name, the sizes of its backbone. Out: the features that are on. A
feature names the key to blame; features of one group are values of one setting and never meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from titan_speech.config.tables import SpeechConfig
from titan_speech.model.published import FLAVORS
from titan_speech.model.shape import BackboneShape


@dataclass(frozen=True)
class Composition:
    """A configuration with the sizes of its backbone; None where only model.initial has them."""

    config: SpeechConfig
    shape: BackboneShape | None

    @classmethod
    def of(cls, config: SpeechConfig) -> Composition:
        return cls(config, FLAVORS[config.model.family].get(config.model.flavor))

    @property
    def compiles_layers(self) -> bool:
        return self.config.compile.enable and "model" in self.config.compile.components

    @property
    def backbone(self) -> str:
        return f"{self.config.model.family} {self.config.model.flavor}"


@dataclass(frozen=True)
class Feature:
    """One thing a run may use."""

    name: str
    """As the page and the messages say it."""

    key: str
    """The key that switches it on."""

    is_on: Callable[[Composition], bool]
    group: str = ""
    """Features of one group are alternatives."""


def _attention(kind: str) -> Callable[[Composition], bool]:
    return lambda run: run.config.model.attention == kind


def _recomputes(kind: str) -> Callable[[Composition], bool]:
    return lambda run: run.config.activation_checkpoint.kind == kind


def _replicates(run: Composition) -> bool:
    return run.config.parallelism.data_parallel_replicate_degree > 1


def _shards(run: Composition) -> bool:
    return run.config.parallelism.data_parallel_shard_degree != 1


def _float8(run: Composition) -> bool:
    return run.config.float8.recipe != "none"


FLEX = Feature("flex attention", "model.attention", _attention("flex"), "attention")
VARLEN = Feature("varlen attention", "model.attention", _attention("varlen"), "attention")
DENSE = Feature("dense attention", "model.attention", _attention("dense"), "attention")
FSDP = Feature(
    *("FSDP", "parallelism.data_parallel_shard_degree", lambda run: _shards(run) and not _replicates(run), "data")
)
HSDP = Feature(
    *("HSDP", "parallelism.data_parallel_replicate_degree", lambda run: _shards(run) and _replicates(run), "data")
)
DDP = Feature(
    *("DDP", "parallelism.data_parallel_replicate_degree", lambda run: _replicates(run) and not _shards(run), "data")
)
ZERO_2 = Feature(
    "ZeRO-2",
    "parallelism.fsdp_reshard_after_forward",
    lambda run: run.config.parallelism.fsdp_reshard_after_forward == "never",
)
TP = Feature(
    "tensor parallel",
    "parallelism.tensor_parallel_degree",
    lambda run: run.config.parallelism.tensor_parallel_degree > 1,
)
ASYNC_TP = Feature(
    "async tensor parallel",
    "compile.enable_async_tensor_parallel",
    lambda run: run.config.compile.enable_async_tensor_parallel,
)
CP = Feature(
    "context parallel",
    "parallelism.context_parallel_degree",
    lambda run: run.config.parallelism.context_parallel_degree > 1,
)
PP = Feature(
    "pipeline parallel",
    "parallelism.pipeline_parallel_degree",
    lambda run: run.config.parallelism.pipeline_parallel_degree > 1,
)
COMPILED_LAYERS = Feature("compiled layers", "compile.enable", lambda run: run.compiles_layers)
COMPILED_LOSS = Feature(
    "compiled loss",
    "compile.enable",
    lambda run: run.config.compile.enable and "loss" in run.config.compile.components,
)
FLOAT8 = Feature("float8", "float8.recipe", lambda run: _float8(run) and not run.config.float8.emulate, "float8")
EMULATED_FLOAT8 = Feature(
    "emulated float8", "float8.emulate", lambda run: _float8(run) and run.config.float8.emulate, "float8"
)
SELECTIVE = Feature("selective recomputation", "activation_checkpoint.kind", _recomputes("selective"), "recomputation")
FULL = Feature("full recomputation", "activation_checkpoint.kind", _recomputes("full"), "recomputation")
MEMORY_BUDGET = Feature("memory budget", "activation_checkpoint.kind", _recomputes("memory_budget"), "recomputation")
CUDA_GRAPHS = Feature("CUDA graphs", "training.cuda_graphs", lambda run: run.config.training.cuda_graphs)
CHUNKED_LOSS = Feature("chunked loss", "loss.num_chunks", lambda run: run.config.loss.num_chunks > 1)
TIED = Feature("tied embedding", "model.flavor", lambda run: run.shape is not None and run.shape.is_tied)

FEATURES = (
    *(FLEX, VARLEN, DENSE, FSDP, HSDP, DDP, ZERO_2, TP, ASYNC_TP, CP, PP, COMPILED_LAYERS, COMPILED_LOSS),
    *(FLOAT8, EMULATED_FLOAT8, SELECTIVE, FULL, MEMORY_BUDGET, CUDA_GRAPHS, CHUNKED_LOSS, TIED),
)


def features_of(config: SpeechConfig) -> list[Feature]:
    """What a configuration has switched on, in the order of the table."""
    return features_on(Composition.of(config))


def features_on(run: Composition) -> list[Feature]:
    """The same, where the sizes of the backbone were read elsewhere."""
    return [feature for feature in FEATURES if feature.is_on(run)]
