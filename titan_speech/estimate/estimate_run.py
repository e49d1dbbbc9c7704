"""Estimate runs: everything that is known of a run before it starts, as one value.

In: `EstimateRequest`s. Out: a `RunEstimate` of each, made of the values of the other files here. A run with many layers
is traced with three and four of them and extrapolated, since all that grows with depth grows by the same amount for
each layer; `full_trace` traces every layer. Of a pipeline the first, the second and the last rank are traced, each with
the whole schedule: those between hold no more than the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import StagesOfRank, stages_of_ranks
from titan_speech.estimate.data_usage import data_usage
from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS, Device
from titan_speech.estimate.dry_run import dry_run
from titan_speech.estimate.offline import RunVocabulary, offline_config, run_shape, run_vocabulary
from titan_speech.estimate.preference_cost import extra_flops, reference_pass
from titan_speech.estimate.result import (
    EstimateRequest,
    Memory,
    RankEstimate,
    RunEstimate,
    Steps,
    count_storage,
)
from titan_speech.estimate.speed import predict
from titan_speech.estimate.speed_by_parts import Pass, SpeedByParts, speed_by_parts
from titan_speech.estimate.step_trace import StepTrace, TraceJob, extrapolate_trace, with_layers, with_stages
from titan_speech.estimate.trace_process import trace_jobs
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import count_flops, count_parameters, counted_twice, traced_flops

TRACED_LAYERS = (3, 4)


def estimate_runs(requests: Sequence[EstimateRequest]) -> list[RunEstimate]:
    """Estimate several runs; those of one layout are traced in one process, which saves importing torch for each.

    Raises:
        EstimateError: model, layout and loss of one of them do not fit together.
    """
    counted = [count_run(request) for request in requests]
    traces = iter(trace_jobs([job for one in counted for jobs in one.jobs for job in jobs]))
    return [predict_run(one, traces) for one in counted]


@dataclass(frozen=True)
class CountedRun:
    """What is known of a run before it is traced, and the traces it needs of each rank."""

    request: EstimateRequest
    found: RunVocabulary
    shape: BackboneShape
    shape_origin: str
    budget: Budget
    ranks: tuple[StagesOfRank | None, ...]
    jobs: tuple[tuple[TraceJob, ...], ...]
    left_out: tuple[str, ...]

    @property
    def dp_degree(self) -> int:
        return data_parallel_degree(self.request.config.parallelism, self.request.world_size)


def count_run(request: EstimateRequest) -> CountedRun:
    """The part of an estimate that comes before tracing."""
    found, (shape, shape_origin) = run_vocabulary(request.config), run_shape(request.config)
    budget = Budget.from_config(request.config)
    config, left_out = offline_config(request.config)
    job = TraceJob(
        config=config,
        shape=shape,
        vocabulary=found.vocabulary,
        world_size=request.world_size,
        accumulates=budget.accumulation(data_parallel_degree(config.parallelism, request.world_size)) > 1,
        fused_kernels=request.device.name != "cpu",
    )
    ranks = traced_ranks(config, shape)
    jobs = tuple(_jobs_of(job, rank, request.full_trace) for rank in ranks)
    return CountedRun(request, found, shape, shape_origin, budget, ranks, jobs, tuple(left_out))


def traced_ranks(config: SpeechConfig, shape: BackboneShape) -> tuple[StagesOfRank | None, ...]:
    """The ranks of a pipeline that differ: of those between first and last, the second holds most."""
    if config.parallelism.pipeline_parallel_degree == 1:
        return (None,)
    ranks = stages_of_ranks(config.parallelism, shape.num_layers)
    return tuple(ranks[number] for number in sorted({0, 1, len(ranks) - 1}))


def _jobs_of(job: TraceJob, rank: StagesOfRank | None, full_trace: bool) -> tuple[TraceJob, ...]:
    """One trace of all layers, or two shallow ones to extrapolate from."""
    if rank is None:
        all_layers = full_trace or job.shape.num_layers <= TRACED_LAYERS[-1]
        return (job,) if all_layers else tuple(with_layers(job, layers) for layers in TRACED_LAYERS)
    job = replace(job, pipeline_rank=rank.rank)
    if full_trace or max(rank.num_layers) <= TRACED_LAYERS[-1]:
        return (job,)
    num_stages = len(rank.num_layers) * job.config.parallelism.pipeline_parallel_degree
    return tuple(with_stages(job, layers, num_stages) for layers in TRACED_LAYERS)


def predict_run(counted: CountedRun, traces: Iterator[StepTrace]) -> RunEstimate:
    """The part of an estimate that follows from the traces of the run's jobs, taken in their order."""
    request, shape, found, budget = counted.request, counted.shape, counted.found, counted.budget
    config = request.config
    data, parameters = data_usage(config), count_parameters(shape, found.vocabulary, config.lora)
    flops = count_flops(shape, found.vocabulary.num_rows, config.lora)
    ranks = tuple(
        _estimate_rank(counted, rank, [next(traces) for _ in jobs], flops.at(config.training.seq_len))
        for rank, jobs in zip(counted.ranks, counted.jobs, strict=True)
    )
    steps = _steps(budget, counted.dp_degree, config.stage.num_done)
    speed = ranks[0].speed
    num_tied = parameters.embedding if parameters.is_tied and not parameters.adapters else 0  # adapters have none
    return RunEstimate(
        request=request,
        shape=shape,
        shape_origin=counted.shape_origin,
        vocabulary=found,
        parameters=parameters,
        flops=flops,
        steps=steps,
        data=data,
        storage=count_storage(config, parameters.trained, budget.num_steps, num_tied),
        ranks=ranks,
        recomputed=sum(rank.recomputed_flops for rank in ranks)
        / sum(rank.pass_flops - rank.recomputed_flops for rank in ranks),
        left_out=counted.left_out,
        dry_run=dry_run(config, request.world_size) if request.dry_run else None,
        reference=reference_pass(
            config,
            shape,
            found.vocabulary.num_rows,
            data,
            None if speed is None else speed.tokens_per_sec_per_gpu * request.world_size,
            ranks[0].pass_flops / (config.training.local_batch_packs * config.training.seq_len),
        ),
        by_parts=_by_parts(counted, ranks[0], data.attended_tokens, steps.accumulation),
    )


def _by_parts(counted: CountedRun, rank: RankEstimate, attended: float | None, passes: int) -> SpeedByParts | None:
    """The speed by parts, of a layout without a pipeline."""
    request, config = counted.request, counted.request.config
    if rank.stages is not None:
        return None
    rows, layout = counted.found.vocabulary.num_rows, config.parallelism
    shards = request.world_size // layout.data_parallel_replicate_degree
    waiting = rank.speed.exposed_sec / passes if rank.speed is not None else 0.0
    one = Pass.of(config, attended, shards, passes, waiting)
    return speed_by_parts(
        counted.shape,
        rows,
        one,
        config.training.seq_len,
        count_flops(counted.shape, rows),
        request.device,
        request.efficiencies,
    )


def _estimate_rank(
    counted: CountedRun, stages: StagesOfRank | None, traces: Sequence[StepTrace], flops_per_token: float
) -> RankEstimate:
    request, shape, rows = counted.request, counted.shape, counted.found.vocabulary.num_rows
    if stages is not None:
        shape, rows = replace(shape, num_layers=sum(stages.num_layers)), rows if stages.has_head else 0
    trace = traces[0] if len(traces) == 1 else extrapolate_trace(traces[0], traces[1], shape.num_layers)
    layout, seq_len = request.config.parallelism, request.config.training.seq_len
    tokens = request.config.training.local_batch_packs * seq_len
    tokens /= layout.tensor_parallel_degree * layout.context_parallel_degree
    again = tokens * counted_twice(shape, seq_len)
    pass_flops = trace.flops - again + tokens * extra_flops(request.config, shape, rows)
    return RankEstimate(
        stages=stages,
        trace=trace,
        pass_flops=pass_flops,
        recomputed_flops=max(0.0, trace.flops - tokens * traced_flops(shape, rows, seq_len, request.config.lora)),
        memory=_memory(trace, request.device),
        speed=predict(
            request.config,
            request.world_size,
            trace,
            flops_per_token,
            pass_flops,
            request.device,
            DEFAULT_ASSUMPTIONS,
            request.price_per_gpu_hour,
        ),
    )


def _steps(budget: Budget, dp_degree: int, num_done: int) -> Steps:
    return Steps(
        tokens_per_step=budget.tokens_per_step,
        num_steps=budget.num_steps - num_done,
        total_tokens=budget.total_tokens - num_done * budget.tokens_per_step,
        dp_degree=dp_degree,
        accumulation=budget.accumulation(dp_degree),
        filler_packs=budget.padding_packs(dp_degree),
        packs_per_step=budget.packs_per_step,
        local_batch_packs=budget.local_batch_packs,
    )


def _memory(trace: StepTrace, device: Device) -> Memory:
    peak = trace.peak
    phases = dict.fromkeys(one.phase for one in trace.peaks)
    return Memory(
        by_component=dict(peak.num_bytes),
        place=peak.place,
        by_phase={name: max(one.total for one in trace.peaks if one.phase == name) for name in phases},
        needed_bytes=peak.total if device.name == "cpu" else DEFAULT_ASSUMPTIONS.needed_bytes(peak.total),
        device_bytes=device.memory_bytes,
    )
