"""What is traced and what a trace holds, as values; and the trace of a deep model from those of two shallow ones.

In: allocations and releases in order. Out: `Peak` of each place of a step, by component. A place is a phase and where
in it a layer is (forward, last layer): what is held at one place grows by the same amount with each layer, while the
fullest place of all may be another one in a deeper model. Components are looked up after the step, since only the end
of a backward pass tells which of its results are gradients.

`extrapolate_trace` uses traces with a and b layers of one width. The trace with n layers has, of every quantity q,
q(a) + (q(b) - q(a)) (n - a) / (b - a): layers are alike, so this is exact at each place of a step (a test compares it
with a trace of all layers). Tracing three and four layers takes a quarter of the time of 28.

No torch, so that the process that asks for a trace need not import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from titan_speech.config.schema import SpeechConfig
from titan_speech.model.backbones import BackboneShape
from titan_speech.tokenization.vocabulary import Vocabulary


class SizeChange(NamedTuple):
    """The size of a storage changed."""

    place: str
    key: int
    """Of the storage."""
    change: int
    """In bytes; negative if it shrank."""


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a place."""

    place: str
    num_bytes: Mapping[str, int]
    """By component."""

    @property
    def phase(self) -> str:
        """forward, loss, backward or optimizer."""
        return self.place.partition(",")[0]

    @property
    def total(self) -> int:
        return sum(self.num_bytes.values())


def peaks(events: Iterable[SizeChange], component_of: Mapping[int, str]) -> list[Peak]:
    """The fullest moment of every place, in the order they were reached.

    Args:
        events: in order.
        component_of: by key of the storage.
    """
    held: dict[str, int] = {}
    total, best = 0, {}
    fullest: dict[str, Peak] = {}
    for event in events:
        component = component_of[event.key]
        held[component] = held.get(component, 0) + event.change
        total += event.change
        if total > best.get(event.place, -1):
            best[event.place] = total
            fullest[event.place] = Peak(event.place, {name: size for name, size in held.items() if size})
    return list(fullest.values())


class Collective(NamedTuple):
    """How a collective moves data, and among which ranks."""

    phase: str
    """pass (a step has as many as it accumulates gradients over) or optimizer."""
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
        """By this rank. NCCL sends large buffers around a ring: (n - 1) / n of a buffer that is gathered or scattered,
        twice that of one that is all-reduced."""
        n = len(self.collective.ranks)
        factor = {"all_reduce": 2 * (n - 1) / n, "point_to_point": 1.0}
        return self.num_bytes * factor.get(self.collective.kind, (n - 1) / n)


@dataclass(frozen=True)
class TraceJob:
    """What is traced."""

    config: SpeechConfig
    """As this machine can build it (offline.offline_config)."""
    shape: BackboneShape
    vocabulary: Vocabulary
    world_size: int
    accumulates: bool
    """Gradients of an earlier pass of the step are already there."""
    fused_kernels: bool = True
    """Memory as with a GPU's kernels; else that of the dense attention that a CPU computes."""
    pipeline_rank: int = 0
    layers_per_stage: int | None = None
    """In a pipeline: as many in every stage, instead of the layout's own."""


@dataclass(frozen=True)
class StepTrace:
    """One pass and the optimizer step after it."""

    num_layers: int
    """Of this rank."""
    peaks: tuple[Peak, ...]
    """By place of the step, in order."""
    resident: dict[str, int]
    """Bytes a rank holds between steps, by component."""
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


def with_layers(job: TraceJob, num_layers: int) -> TraceJob:
    """The same job with another number of layers."""
    return replace(job, shape=replace(job.shape, num_layers=num_layers))


def with_stages(job: TraceJob, layers_per_stage: int, num_stages: int) -> TraceJob:
    """The same pipeline with that many layers in each stage."""
    layout = replace(
        job.config.parallelism,
        pipeline_parallel_first_stage_less_layers=0,
        pipeline_parallel_last_stage_less_layers=0,
    )
    shallow = with_layers(job, layers_per_stage * num_stages)
    return replace(shallow, config=replace(job.config, parallelism=layout), layers_per_stage=layers_per_stage)


def extrapolate_peaks(shallow: Sequence[Peak], deeper: Sequence[Peak], factor: float) -> list[Peak]:
    """Peaks of a model whose layers beyond `shallow` are `factor` times as many as those of `deeper`."""
    by_place = {peak.place: peak for peak in deeper}
    return [
        Peak(peak.place, _extrapolate_sizes(peak.num_bytes, by_place[peak.place].num_bytes, factor)) for peak in shallow
    ]


def _extrapolate_sizes(shallow: Mapping[str, int], deeper: Mapping[str, int], factor: float) -> dict[str, int]:
    names = dict.fromkeys([*shallow, *deeper])
    return {name: _extrapolate(shallow.get(name, 0), deeper.get(name, 0), factor) for name in names}


def _extrapolate(shallow: int, deeper: int, factor: float) -> int:
    return round(shallow + (deeper - shallow) * factor)


def extrapolate_trace(shallow: StepTrace, deeper: StepTrace, num_layers: int) -> StepTrace:
    """The trace of a model with `num_layers`, from those of two models with fewer."""
    factor = (num_layers - shallow.num_layers) / (deeper.num_layers - shallow.num_layers)
    first, second = ({one.collective: one for one in trace.traffic} for trace in (shallow, deeper))
    traffic = []
    for name in dict.fromkeys([*first, *second]):
        one, other = (found.get(name, Traffic(name, 0, 0)) for found in (first, second))
        times = _extrapolate(one.times, other.times, factor)
        traffic.append(Traffic(name, times, _extrapolate(one.num_bytes, other.num_bytes, factor)))
    return StepTrace(
        num_layers=num_layers,
        peaks=tuple(extrapolate_peaks(shallow.peaks, deeper.peaks, factor)),
        resident=_extrapolate_sizes(shallow.resident, deeper.resident, factor),
        flops=_extrapolate(shallow.flops, deeper.flops, factor),
        traffic=tuple(traffic),
    )
