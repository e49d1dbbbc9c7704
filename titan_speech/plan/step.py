"""What is asked of a trace and what it says; plain values, so that the process that asks need not import torch.

In: nothing. Out: `TraceJob` and `StepTrace`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from titan_speech.config.tables import SpeechConfig
from titan_speech.model.shape import BackboneShape
from titan_speech.plan.timeline import Peak
from titan_speech.vocabulary import Vocabulary


class Collective(NamedTuple):
    """What a collective is: how it moves data, and among which ranks."""

    phase: str
    """pass (of which a step has as many as it accumulates) or optimizer."""
    kind: str
    """all_gather, reduce_scatter, all_reduce, all_to_all, broadcast or point_to_point."""
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Traffic:
    """All collectives of one kind that a rank takes part in."""

    collective: Collective
    times: int
    num_bytes: int
    """Of their whole buffers, over all ranks."""

    @property
    def bytes_sent(self) -> float:
        """By this rank. Large buffers go round a ring in NCCL: (n - 1) / n of a buffer that is gathered or scattered,
        twice that of one that is reduced to all."""
        n = len(self.collective.ranks)
        factor = {"all_reduce": 2 * (n - 1) / n, "point_to_point": 1.0}
        return self.num_bytes * factor.get(self.collective.kind, (n - 1) / n)


@dataclass(frozen=True)
class TraceJob:
    """What is traced."""

    config: SpeechConfig
    """As this machine can build it (this_machine.on_this_machine)."""
    shape: BackboneShape
    vocabulary: Vocabulary
    world_size: int
    accumulates: bool
    """Gradients of an earlier pass of the step are there already."""
    fused_kernels: bool = True
    """Memory as with a GPU's kernels; else that of the dense attention a CPU computes."""


@dataclass(frozen=True)
class StepTrace:
    """One pass and the optimizer step after it."""

    num_layers: int
    peaks: tuple[Peak, ...]
    """By place of the step, in order."""
    resident: dict[str, int]
    """What a rank holds between steps, by component."""
    flops: int
    """Of one pass of one rank, recomputation included."""
    traffic: tuple[Traffic, ...]
    """Of one pass, and of the optimizer step."""

    @property
    def peak(self) -> Peak:
        return max(self.peaks, key=lambda peak: peak.total)


def with_layers(job: TraceJob, num_layers: int) -> TraceJob:
    """The same job with another number of layers."""
    return replace(job, shape=replace(job.shape, num_layers=num_layers))
