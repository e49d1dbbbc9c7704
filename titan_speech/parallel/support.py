"""Which features exclude each other and which need another one: data, and the check that reads it.

In: a configuration. Out: a `Finding` for each contradiction, with the reason and the nearest valid choice; and the
same rules as text, for `titan-speech plan` and docs/parallelism.md. A pair that no rule names is allowed; whether it
was ever run is said by the page, from the recorded figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from titan_speech.config.finding import Finding
from titan_speech.config.tables import SpeechConfig
from titan_speech.parallel import features as f
from titan_speech.parallel.features import Composition, Feature, features_of


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

    def finding(self) -> Finding:
        keys = (self.feature.key, self.needed.key)
        return Finding(keys, str(self), f"{self.needed.name}: {self.reason}", self.nearest)

    def __str__(self) -> str:
        return f"{self.feature.name} without {self.needed.name}"


Rule = Conflict | Need

RULES: tuple[Rule, ...] = (
    Conflict(
        *(f.VARLEN, f.CP),
        "varlen attention takes whole documents, and a cut pack has none",
        'model.attention = "flex"',
    ),
    Conflict(
        *(f.VARLEN, f.CUDA_GRAPHS),
        "the number of documents changes from pack to pack, and a graph replays fixed shapes",
        'model.attention = "flex"',
    ),
    Conflict(
        *(f.PP, f.TIED),
        "the first stage has the embedding and the last one the head, and a tied backbone has one matrix for both",
        "parallelism.pipeline_parallel_degree = 1 (FSDP and tensor parallel instead), or the untied llama3 8B",
    ),
    Conflict(
        *(f.PP, f.CUDA_GRAPHS),
        "TorchTitan captures a whole step, and a pipeline's step talks to other ranks in the middle of it",
        "training.cuda_graphs = false",
    ),
    Conflict(
        *(f.EMULATED_FLOAT8, f.COMPILED_LAYERS),
        "TorchTitan refuses to compile emulated float8, which is for checking numbers",
        "compile.enable = false, or float8.emulate = false on a device with float8",
    ),
    Need(
        *(f.MEMORY_BUDGET, f.COMPILED_LAYERS),
        "the compiler is what chooses the activations to keep",
        'compile.enable = true with "model" in compile.components, or activation_checkpoint.kind = "selective"',
    ),
    Need(
        *(f.ASYNC_TP, f.COMPILED_LAYERS),
        "the compiler is what overlaps communication with matrix products",
        'compile.enable = true with "model" in compile.components',
    ),
    Need(
        *(f.ASYNC_TP, f.TP),
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


def describe_composition(config: SpeechConfig) -> str:
    """What a run composes, in one line."""
    degrees = config.parallelism
    sizes = {
        f.HSDP: degrees.data_parallel_replicate_degree,
        f.DDP: degrees.data_parallel_replicate_degree,
        f.TP: degrees.tensor_parallel_degree,
        f.CP: degrees.context_parallel_degree,
        f.PP: degrees.pipeline_parallel_degree,
        f.CHUNKED_LOSS: config.loss.num_chunks,
    }
    return ", ".join(f"{one.name} {sizes[one]}" if one in sizes else one.name for one in features_of(config))


def support_table() -> str:
    """The rules as a text table: what does not go together, why, and what to set instead."""
    lines = []
    for rule in RULES:
        lines += [f"{rule}:", f"    {rule.reason}", f"    instead: {rule.nearest}"]
    return "\n".join(lines)
