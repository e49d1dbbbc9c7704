"""Allocations and releases in order, as peaks: how much is held at most at each place of a step, and by what.

In: events of the ledger. Out: `Peak` of each place, by component. Components are looked up after the fact, since only
the end of a backward pass tells which of its results are gradients. A place is a phase and where in it a layer stands
(forward, last layer): what is held at one place grows by the same amount with each layer, while the fullest
place of all may be another one in a deeper model.

What is asked of a trace and what it says; plain values, so that the process that asks need not import torch.

In: nothing. Out: `TraceJob` and `StepTrace`.

A trace of a deep model from those of two shallow ones.

In: traces with a and b layers of one width. Out: the trace with n layers: of every quantity q,
q(a) + (q(b) - q(a)) (n - a) / (b - a). Layers are alike, so this is exact at each place of a step (timeline.py); a test
holds it to a trace of all layers. Three and four layers take a quarter of the time of 28.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from titan_speech.config.schema import SpeechConfig
from titan_speech.model.backbones import BackboneShape
from titan_speech.tokenization.vocabulary import Vocabulary


class Event(NamedTuple):
    """A storage grew (or shrank, if negative) by so many bytes."""

    place: str
    key: int
    change: int


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


def peaks(events: Iterable[Event], component_of: Mapping[int, str]) -> list[Peak]:
    """The fullest moment of every place, in the order they were reached."""
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


def extended(shallow: Sequence[Peak], deeper: Sequence[Peak], more_layers: float) -> list[Peak]:
    """Peaks of a model with `more_layers` times as many layers above `shallow` as `deeper` has: sizes grow linearly."""
    by_place = {peak.place: peak for peak in deeper}
    return [_extended(peak, by_place[peak.place], more_layers) for peak in shallow]


def _extended(shallow: Peak, deeper: Peak, more_layers: float) -> Peak:
    names = dict.fromkeys([*shallow.num_bytes, *deeper.num_bytes])
    sizes = {}
    for name in names:
        first, second = shallow.num_bytes.get(name, 0), deeper.num_bytes.get(name, 0)
        sizes[name] = round(first + (second - first) * more_layers)
    return Peak(shallow.place, sizes)


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


def extended_trace(shallow: StepTrace, deeper: StepTrace, num_layers: int) -> StepTrace:
    """The trace of a model with `num_layers`."""
    more = (num_layers - shallow.num_layers) / (deeper.num_layers - shallow.num_layers)

    def grown(first: float, second: float) -> int:
        return round(first + (second - first) * more)

    first, second = ({one.collective: one for one in trace.traffic} for trace in (shallow, deeper))
    names = dict.fromkeys([*first, *second])
    nothing = {name: Traffic(name, 0, 0) for name in names}
    first, second = nothing | first, nothing | second
    return StepTrace(
        num_layers=num_layers,
        peaks=tuple(extended(shallow.peaks, deeper.peaks, more)),
        resident={name: grown(shallow.resident[name], deeper.resident[name]) for name in shallow.resident},
        flops=grown(shallow.flops, deeper.flops),
        traffic=tuple(
            Traffic(
                name,
                grown(first[name].times, second[name].times),
                grown(first[name].num_bytes, second[name].num_bytes),
            )
            for name in names
        ),
    )
