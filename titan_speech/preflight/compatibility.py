"""Feature compatibility, declared as data: what a run may enable, and which features exclude or need each other.

In: a configuration and, where its flavor has them, the sizes of its backbone (`Composition`). Out: the features that
are enabled; a `Finding` for each rule that is broken, with its reason and the nearest valid choice; for `titan-speech
estimate` what could not be enabled as well.

A feature names the key to blame; features of one group are values of one setting, so they never meet. A pair that no
rule names is allowed; docs/parallelism.md prints all rules, and which pairs ran in a test (from recorded results).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig
from titan_speech.model.backbones import FLAVORS, BackboneShape


@dataclass(frozen=True)
class Composition:
    """A configuration with the sizes of its backbone; None where the folder model.initial has them."""

    config: SpeechConfig
    shape: BackboneShape | None

    @classmethod
    def of(cls, config: SpeechConfig) -> Composition:
        return cls(config, FLAVORS[config.model.family].get(config.model.flavor))

    @property
    def compiles_layers(self) -> bool:
        return self.config.compile.enable and "model" in self.config.compile.components


@dataclass(frozen=True)
class Feature:
    """One feature that a run may enable."""

    name: str
    """Its name in messages and in docs/parallelism.md."""

    key: str
    """The key that enables it."""

    is_on: Callable[[Composition], bool]
    group: str = ""
    """Features of one group are alternatives; empty: no alternatives."""


def _attention(name: str, kind: str) -> Feature:
    return Feature(name, "model.attention", lambda run: run.config.model.attention == kind, "attention")


def _checkpointing(name: str, kind: str) -> Feature:
    key, group = "activation_checkpoint.kind", "activation checkpointing"
    return Feature(name, key, lambda run: run.config.activation_checkpoint.kind == kind, group)


def _parallel(name: str, degree: str) -> Feature:
    return Feature(name, f"parallelism.{degree}", lambda run: getattr(run.config.parallelism, degree) > 1)


def _replicates(run: Composition) -> bool:
    return run.config.parallelism.data_parallel_replicate_degree > 1


def _shards(run: Composition) -> bool:
    return run.config.parallelism.data_parallel_shard_degree != 1


def _float8(run: Composition) -> bool:
    return run.config.float8.recipe != "none"


FLEX = Feature(
    "flex attention", "model.attention", lambda run: run.config.model.attention in ("flex", "flex_flash"), "attention"
)
VARLEN = _attention("varlen attention", "varlen")
DENSE = _attention("dense attention", "dense")
FSDP = Feature(
    "FSDP", "parallelism.data_parallel_shard_degree", lambda run: _shards(run) and not _replicates(run), "data"
)
HSDP = Feature(
    "HSDP", "parallelism.data_parallel_replicate_degree", lambda run: _shards(run) and _replicates(run), "data"
)
DDP = Feature(
    "DDP", "parallelism.data_parallel_replicate_degree", lambda run: _replicates(run) and not _shards(run), "data"
)
ZERO_2 = Feature(
    "ZeRO-2",
    "parallelism.fsdp_reshard_after_forward",
    lambda run: run.config.parallelism.fsdp_reshard_after_forward == "never",
)
SYMMETRIC_MEMORY = Feature(
    "FSDP in symmetric memory",
    "parallelism.enable_fsdp_symm_mem",
    lambda run: run.config.parallelism.enable_fsdp_symm_mem,
)
TP = _parallel("tensor parallel", "tensor_parallel_degree")
ASYNC_TP = Feature(
    "async tensor parallel",
    "compile.enable_async_tensor_parallel",
    lambda run: run.config.compile.enable_async_tensor_parallel,
)
CP = _parallel("context parallel", "context_parallel_degree")
PP = _parallel("pipeline parallel", "pipeline_parallel_degree")
COMPILED_LAYERS = Feature("compiled layers", "compile.enable", lambda run: run.compiles_layers)
COMPILED_LOSS = Feature(
    "compiled loss", "compile.enable", lambda run: run.config.compile.enable and "loss" in run.config.compile.components
)
FLOAT8 = Feature("float8", "float8.recipe", lambda run: _float8(run) and not run.config.float8.emulate, "float8")
EMULATED_FLOAT8 = Feature(
    "emulated float8", "float8.emulate", lambda run: _float8(run) and run.config.float8.emulate, "float8"
)
SELECTIVE = _checkpointing("selective activation checkpointing", "selective")
FULL = _checkpointing("full activation checkpointing", "full")
MEMORY_BUDGET = _checkpointing("memory budget", "memory_budget")
CUDA_GRAPHS = Feature("CUDA graphs", "training.cuda_graphs", lambda run: run.config.training.cuda_graphs)
CHUNKED_LOSS = Feature("chunked loss", "loss.num_chunks", lambda run: run.config.loss.num_chunks > 1)
TIED = Feature("tied embeddings", "model.flavor", lambda run: run.shape is not None and run.shape.is_tied)
LORA = Feature("LoRA", "lora.rank", lambda run: run.config.lora.is_on)
PREFERENCE = Feature("preference loss", "preference.loss", lambda run: run.config.preference.is_on)

FEATURES = (
    FLEX,
    VARLEN,
    DENSE,
    FSDP,
    HSDP,
    DDP,
    ZERO_2,
    SYMMETRIC_MEMORY,
    TP,
    ASYNC_TP,
    CP,
    PP,
    COMPILED_LAYERS,
    COMPILED_LOSS,
    FLOAT8,
    EMULATED_FLOAT8,
    SELECTIVE,
    FULL,
    MEMORY_BUDGET,
    CUDA_GRAPHS,
    CHUNKED_LOSS,
    TIED,
    LORA,
    PREFERENCE,
)


def enabled_features(run: Composition) -> list[Feature]:
    """The features a run has enabled, in the order of `FEATURES`."""
    return [feature for feature in FEATURES if feature.is_on(run)]


@dataclass(frozen=True)
class Conflict:
    """Two features that exclude each other."""

    first: Feature
    second: Feature
    reason: str
    nearest: str
    """What to set instead, as it is written in a TOML file."""

    def is_broken_by(self, run: Composition) -> bool:
        return self.first.is_on(run) and self.second.is_on(run)

    def excluded_from(self, run: Composition) -> Feature | None:
        """The feature that this run could not enable as well, because of this rule."""
        if self.first.is_on(run) == self.second.is_on(run):
            return None
        return self.second if self.first.is_on(run) else self.first

    def finding(self) -> Finding:
        keys = (self.first.key, self.second.key)
        return Finding(keys, str(self), f"one of the two: {self.reason}", self.nearest)

    def __str__(self) -> str:
        return f"{self.first.name} with {self.second.name}"


@dataclass(frozen=True)
class Requirement:
    """A feature that needs another one."""

    feature: Feature
    needed: Feature
    reason: str
    nearest: str

    def is_broken_by(self, run: Composition) -> bool:
        return self.feature.is_on(run) and not self.needed.is_on(run)

    def excluded_from(self, run: Composition) -> Feature | None:
        """The feature that this run could not enable as well, because of this rule."""
        return None if self.feature.is_on(run) or self.needed.is_on(run) else self.feature

    def finding(self) -> Finding:
        keys = (self.feature.key, self.needed.key)
        return Finding(keys, str(self), f"{self.needed.name}: {self.reason}", self.nearest)

    def __str__(self) -> str:
        return f"{self.feature.name} without {self.needed.name}"


Rule = Conflict | Requirement

COMPATIBILITY_RULES: tuple[Rule, ...] = (
    Conflict(
        VARLEN,
        CP,
        "varlen attention takes whole documents, and a pack that is split along its length does not have them",
        'model.attention = "flex"',
    ),
    Conflict(
        VARLEN,
        CUDA_GRAPHS,
        "the number of documents changes from pack to pack, and a graph replays fixed shapes",
        'model.attention = "flex"',
    ),
    Conflict(
        PP,
        TIED,
        "the first stage has the embedding and the last stage the head; a backbone with tied embeddings has one matrix "
        "for both",
        "parallelism.pipeline_parallel_degree = 1 (FSDP and tensor parallel instead), or the untied llama3 8B",
    ),
    Conflict(
        PP,
        CUDA_GRAPHS,
        "TorchTitan captures a whole step, and a pipeline communicates with other ranks within a step",
        "training.cuda_graphs = false",
    ),
    Conflict(
        PREFERENCE,
        PP,
        "a pipeline calls the loss for several micro-batches within one step of its schedule, and the reference's "
        "log-probabilities belong to one each",
        "parallelism.pipeline_parallel_degree = 1 (FSDP and tensor parallel instead)",
    ),
    Conflict(
        PREFERENCE,
        CUDA_GRAPHS,
        "the reference's log-probabilities come as a new tensor with each micro-batch, and a graph replays addresses",
        "training.cuda_graphs = false",
    ),
    Conflict(
        EMULATED_FLOAT8,
        COMPILED_LAYERS,
        "TorchTitan refuses to compile emulated float8, which is for checking numbers",
        "compile.enable = false, or float8.emulate = false on a device with float8",
    ),
    Conflict(
        SYMMETRIC_MEMORY,
        DDP,
        "whole replicas gather no weights",
        "parallelism.enable_fsdp_symm_mem = false, or parallelism.data_parallel_shard_degree = -1",
    ),
    Requirement(
        MEMORY_BUDGET,
        COMPILED_LAYERS,
        "the compiler chooses which activations are kept",
        'compile.enable = true with "model" in compile.components, or activation_checkpoint.kind = "selective"',
    ),
    Requirement(
        ASYNC_TP,
        COMPILED_LAYERS,
        "the compiler overlaps communication with matrix products",
        'compile.enable = true with "model" in compile.components',
    ),
    Requirement(
        ASYNC_TP,
        TP,
        "without it there is no communication to overlap",
        "parallelism.tensor_parallel_degree = 2, or compile.enable_async_tensor_parallel = false",
    ),
)


def check_compatibility(config: SpeechConfig) -> Iterator[Finding]:
    """A finding for every rule that the configuration breaks."""
    return broken_rules(Composition.of(config))


def broken_rules(run: Composition) -> Iterator[Finding]:
    """A finding for every rule that the run breaks."""
    return (rule.finding() for rule in COMPATIBILITY_RULES if rule.is_broken_by(run))


def excluded_features(run: Composition) -> dict[str, str]:
    """The features that this run could not enable as well, and why. Tied embeddings are left out, since they are a
    property of the backbone."""
    reasons: dict[str, str] = {}
    for rule in COMPATIBILITY_RULES:
        feature = rule.excluded_from(run)
        if feature is not None and feature is not TIED:
            reasons.setdefault(feature.name, f"{rule}: {rule.reason}")
    return reasons


def describe_composition(run: Composition) -> str:
    """The enabled features and their degrees, in one line."""
    config, degrees = run.config, run.config.parallelism
    sizes = {
        HSDP: degrees.data_parallel_replicate_degree,
        DDP: degrees.data_parallel_replicate_degree,
        TP: degrees.tensor_parallel_degree,
        CP: degrees.context_parallel_degree,
        PP: degrees.pipeline_parallel_degree,
        CHUNKED_LOSS: config.loss.num_chunks,
        LORA: config.lora.rank,
    }
    return ", ".join(
        f"{feature.name} {sizes[feature]}" if feature in sizes else feature.name for feature in enabled_features(run)
    )
