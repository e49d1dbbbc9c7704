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
    pipeline_rank: int = 0
    layers_a_stage: int | None = None
    """Of a pipeline: as many in every stage, instead of the layout's own."""


@dataclass(frozen=True)
class StepTrace:
    """One pass and the optimizer step after it."""

    num_layers: int
    """Of this rank."""
    peaks: tuple[Peak, ...]
    """By place of the step, in order."""
    resident: dict[str, int]
    """What a rank holds between steps, by component."""
    flops: int
    """Of one pass of one rank, recomputation included; a pass of a pipeline takes all packs of the rank."""
    traffic: tuple[Traffic, ...]
    """Of one pass, and of the optimizer step."""

    @property
    def peak(self) -> Peak:
        return max(self.peaks, key=lambda peak: peak.total)


def global_rank(job: TraceJob) -> int:
    """The first of the ranks that hold this part of the pipeline: pipelines are the outermost mesh of ranks."""
    return job.pipeline_rank * (job.world_size // job.config.parallelism.pipeline_parallel_degree)


def with_stages(job: TraceJob, layers_a_stage: int, num_stages: int) -> TraceJob:
    """The same pipeline with so many layers in each stage."""
    layout = replace(
        job.config.parallelism,
        pipeline_parallel_first_stage_less_layers=0,
        pipeline_parallel_last_stage_less_layers=0,
    )
    shallow = with_layers(job, layers_a_stage * num_stages)
    return replace(shallow, config=replace(job.config, parallelism=layout), layers_a_stage=layers_a_stage)


def with_layers(job: TraceJob, num_layers: int) -> TraceJob:
    """The same job with another number of layers."""
    return replace(job, shape=replace(job.shape, num_layers=num_layers))
