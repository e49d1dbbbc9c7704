"""Which features exclude each other and which need another one: data, and the check that reads it.

In: a configuration. Out: a `Finding` for each contradiction, with the reason and the nearest valid choice; and for
`titan-speech plan` what a run composes and what could not be added to it. docs/parallelism.md prints all rules. A pair
that no rule names is allowed; whether it was ever run is said by that page, from the recorded figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from titan_speech.config.finding import Finding
from titan_speech.config.tables import SpeechConfig
from titan_speech.parallel import features as f
from titan_speech.parallel.features import Composition, Feature, features_on


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


def refused_additions(run: Composition) -> dict[str, str]:
    """What could not be switched on in this run as it stands, and why: the rows of the table that concern it. Whether
    a backbone is tied is nothing to switch."""
    found: dict[str, str] = {}
    for rule in RULES:
        feature = rule.refused_in(run)
        if feature is not None and feature is not f.TIED:
            found.setdefault(feature.name, f"{rule}: {rule.reason}")
    return found


def describe_composition(run: Composition) -> str:
    """What a run composes, in one line."""
    config = run.config
    degrees = config.parallelism
    sizes = {
        f.HSDP: degrees.data_parallel_replicate_degree,
        f.DDP: degrees.data_parallel_replicate_degree,
        f.TP: degrees.tensor_parallel_degree,
        f.CP: degrees.context_parallel_degree,
        f.PP: degrees.pipeline_parallel_degree,
        f.CHUNKED_LOSS: config.loss.num_chunks,
    }
    return ", ".join(f"{one.name} {sizes[one]}" if one in sizes else one.name for one in features_on(run))
