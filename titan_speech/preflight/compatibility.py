"""What a run may have switched on: the rows and columns of the table of what goes together.

In: a configuration and, where they are known by name, the sizes of its backbone. Out: the features that are on. A
feature names the key to blame; features of one group are values of one setting and never meet.

What was not run on the machines this project is tested on, why, and what was checked in its place.

In: nothing. Out: rows of docs/parallelism.md. A row goes when somebody ran it and recorded it.

Which features exclude each other and which need another one: data, and the check that reads it.

In: a configuration. Out: a `Finding` for each contradiction, with the reason and the nearest valid choice; and for
`titan-speech estimate` what a run composes and what could not be added to it. docs/parallelism.md prints all rules. A
pair that no rule names is allowed; whether it was ever run is said by that page, from the recorded figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from titan_speech.config.problem import Finding
from titan_speech.config.schema import SpeechConfig
from titan_speech.model.backbones import FLAVORS, BackboneShape


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


@dataclass(frozen=True)
class Untested:
    """One thing nobody has seen run here."""

    what: str
    why: str
    instead: str


UNTESTED = (
    Untested(
        "flex attention's kernel, alone and under CP, TP, compile",
        "needs CUDA; on a CPU it has no backward pass",
        "its unfused forward pass equals dense attention, a subclass of it that is given the same masks, cut for CP by "
        "the same code",
    ),
    Untested(
        "varlen attention",
        "needs CUDA",
        "borders come from the same positions; that its inputs change length from pack to pack",
    ),
    Untested(
        "CUDA graphs",
        "need CUDA",
        "inputs have one structure whatever is packed, a mask that was captured and written over is that of the new "
        "packs, sums of losses are allocated before capture",
    ),
    Untested(
        "async tensor parallel",
        "needs CUDA: its collectives go through symmetric memory",
        "tensor parallel with compiled layers, which it speeds up",
    ),
    Untested(
        "float8 matrix products",
        "need compute capability 8.9",
        "each recipe's rounding, emulated, in the layouts above; which layers are converted",
    ),
    Untested(
        "NCCL, more than one machine, more than four ranks",
        "no device and one machine",
        "the layouts above over gloo",
    ),
    Untested(
        "ZB and V pipeline schedules",
        "not offered: they split the backward pass, and the chunked loss computes its part of it in the forward pass",
        "1F1B, GPipe, Interleaved1F1B",
    ),
    Untested("throughput and memory of any layout", "no device", "nothing"),
)


@dataclass(frozen=True)
class Conflict:
    """Two features that no run may have together."""

    first: Feature
    second: Feature
    reason: str
    nearest: str
    """What to set instead, as it is written in a file."""

    def broken_by(self, run: Composition) -> bool:
        return self.first.is_on(run) and self.second.is_on(run)

    def refused_in(self, run: Composition) -> Feature | None:
        """What this rule would refuse if it were added to the run."""
        if self.first.is_on(run) == self.second.is_on(run):
            return None
        return self.second if self.first.is_on(run) else self.first

    def finding(self) -> Finding:
        keys = (self.first.key, self.second.key)
        return Finding(keys, str(self), f"one of the two: {self.reason}", self.nearest)

    def __str__(self) -> str:
        return f"{self.first.name} with {self.second.name}"


@dataclass(frozen=True)
class Need:
    """A feature that is nothing without another one."""

    feature: Feature
    needed: Feature
    reason: str
    nearest: str

    def broken_by(self, run: Composition) -> bool:
        return self.feature.is_on(run) and not self.needed.is_on(run)

    def refused_in(self, run: Composition) -> Feature | None:
        """What this rule would refuse if it were added to the run."""
        return None if self.feature.is_on(run) or self.needed.is_on(run) else self.feature

    def finding(self) -> Finding:
        keys = (self.feature.key, self.needed.key)
        return Finding(keys, str(self), f"{self.needed.name}: {self.reason}", self.nearest)

    def __str__(self) -> str:
        return f"{self.feature.name} without {self.needed.name}"


Rule = Conflict | Need

RULES: tuple[Rule, ...] = (
    Conflict(
        *(VARLEN, CP),
        "varlen attention takes whole documents, and a cut pack has none",
        'model.attention = "flex"',
    ),
    Conflict(
        *(VARLEN, CUDA_GRAPHS),
        "the number of documents changes from pack to pack, and a graph replays fixed shapes",
        'model.attention = "flex"',
    ),
    Conflict(
        *(PP, TIED),
        "the first stage has the embedding and the last one the head, and a tied backbone has one matrix for both",
        "parallelism.pipeline_parallel_degree = 1 (FSDP and tensor parallel instead), or the untied llama3 8B",
    ),
    Conflict(
        *(PP, CUDA_GRAPHS),
        "TorchTitan captures a whole step, and a pipeline's step talks to other ranks in the middle of it",
        "training.cuda_graphs = false",
    ),
    Conflict(
        *(EMULATED_FLOAT8, COMPILED_LAYERS),
        "TorchTitan refuses to compile emulated float8, which is for checking numbers",
        "compile.enable = false, or float8.emulate = false on a device with float8",
    ),
    Need(
        *(MEMORY_BUDGET, COMPILED_LAYERS),
        "the compiler is what chooses the activations to keep",
        'compile.enable = true with "model" in compile.components, or activation_checkpoint.kind = "selective"',
    ),
    Need(
        *(ASYNC_TP, COMPILED_LAYERS),
        "the compiler is what overlaps communication with matrix products",
        'compile.enable = true with "model" in compile.components',
    ),
    Need(
        *(ASYNC_TP, TP),
        "there is nothing to overlap",
        "parallelism.tensor_parallel_degree = 2, or compile.enable_async_tensor_parallel = false",
    ),
)


def check_support(config: SpeechConfig) -> Iterator[Finding]:
    """Every rule the configuration breaks."""
    return broken_rules(Composition.of(config))


def broken_rules(run: Composition) -> Iterator[Finding]:
    """The same, where the sizes of the backbone were read elsewhere."""
    return (rule.finding() for rule in RULES if rule.broken_by(run))


def refused_additions(run: Composition) -> dict[str, str]:
    """What could not be switched on in this run as it stands, and why: the rows of the table that concern it. Whether
    a backbone is tied is nothing to switch."""
    found: dict[str, str] = {}
    for rule in RULES:
        feature = rule.refused_in(run)
        if feature is not None and feature is not TIED:
            found.setdefault(feature.name, f"{rule}: {rule.reason}")
    return found


def describe_composition(run: Composition) -> str:
    """What a run composes, in one line."""
    config = run.config
    degrees = config.parallelism
    sizes = {
        HSDP: degrees.data_parallel_replicate_degree,
        DDP: degrees.data_parallel_replicate_degree,
        TP: degrees.tensor_parallel_degree,
        CP: degrees.context_parallel_degree,
        PP: degrees.pipeline_parallel_degree,
        CHUNKED_LOSS: config.loss.num_chunks,
    }
    return ", ".join(f"{one.name} {sizes[one]}" if one in sizes else one.name for one in features_on(run))
