"""The plan of a run: everything that is said of it before it is started, as one value.

In: a `Question`. Out: `RunPlan`, made of the values of the other files here; `plan_runs` puts them together. A run of
many layers is traced with three and four of them and extended, since all that grows with depth grows by the same amount
for each layer; `full_trace` traces every layer. Of a pipeline the first, the second and the last rank are traced, each
with the whole schedule: those between hold no more than the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import StagesOfRank, stages_of_ranks
from titan_speech.estimate.answer import Memory, Question, RankEstimate, RunEstimate, Steps, count_storage, predict
from titan_speech.estimate.data_reading import read_plan
from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS, Device, on_this_machine
from titan_speech.estimate.dry_run import dry_run
from titan_speech.estimate.memory import StepTrace, TraceJob, extended_trace, with_layers, with_stages
from titan_speech.estimate.rows import FoundVocabulary, run_shape, run_vocabulary
from titan_speech.estimate.trace_process import traced
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import count_flops, count_parameters, counted_twice, traced_flops

TRACED_LAYERS = (3, 4)


def estimate_runs(questions: Sequence[Question]) -> list[RunEstimate]:
    """Plan several runs; those of one layout are traced in one process, which saves importing torch for each.

    Raises:
        EstimateError: one of them does not fit together.
    """
    counted = [count_run(question) for question in questions]
    traces = iter(traced([job for one in counted for jobs in one.jobs for job in jobs]))
    return [predict_run(one, traces) for one in counted]


@dataclass(frozen=True)
class Counted:
    """What is known of a run before it is traced, and the traces it needs of each rank."""

    question: Question
    found: FoundVocabulary
    shape: BackboneShape
    shape_origin: str
    budget: Budget
    ranks: tuple[StagesOfRank | None, ...]
    jobs: tuple[tuple[TraceJob, ...], ...]
    left_out: tuple[str, ...]

    @property
    def dp_degree(self) -> int:
        return data_parallel_degree(self.question.config.parallelism, self.question.world_size)


def count_run(question: Question) -> Counted:
    """The first half of a plan."""
    found, (shape, shape_origin) = run_vocabulary(question.config), run_shape(question.config)
    budget = Budget.from_config(question.config)
    config, left_out = on_this_machine(question.config)
    job = TraceJob(
        config=config,
        shape=shape,
        vocabulary=found.vocabulary,
        world_size=question.world_size,
        accumulates=budget.accumulation(data_parallel_degree(config.parallelism, question.world_size)) > 1,
        fused_kernels=question.device.name != "cpu",
    )
    ranks = traced_ranks(config, shape)
    jobs = tuple(_jobs_of(job, rank, question.full_trace) for rank in ranks)
    return Counted(question, found, shape, shape_origin, budget, ranks, jobs, tuple(left_out))


def traced_ranks(config: SpeechConfig, shape: BackboneShape) -> tuple[StagesOfRank | None, ...]:
    """The ranks of a pipeline that differ: the second holds as many layers as any between, and most passes of them."""
    if config.parallelism.pipeline_parallel_degree == 1:
        return (None,)
    ranks = stages_of_ranks(config.parallelism, shape.num_layers)
    return tuple(ranks[number] for number in sorted({0, 1, len(ranks) - 1}))


def _jobs_of(job: TraceJob, rank: StagesOfRank | None, full_trace: bool) -> tuple[TraceJob, ...]:
    """One trace of all layers, or two shallow ones to extend."""
    if rank is None:
        all_layers = full_trace or job.shape.num_layers <= TRACED_LAYERS[-1]
        return (job,) if all_layers else tuple(with_layers(job, layers) for layers in TRACED_LAYERS)
    job = replace(job, pipeline_rank=rank.rank)
    if full_trace or max(rank.num_layers) <= TRACED_LAYERS[-1]:
        return (job,)
    num_stages = len(rank.num_layers) * job.config.parallelism.pipeline_parallel_degree
    return tuple(with_stages(job, layers, num_stages) for layers in TRACED_LAYERS)


def predict_run(counted: Counted, traces: Iterator[StepTrace]) -> RunEstimate:
    """The second half, from the traces of the run's jobs, in their order."""
    question, shape, found, budget = counted.question, counted.shape, counted.found, counted.budget
    config, rows, seq_len = question.config, found.vocabulary.num_rows, question.config.training.seq_len
    reading, parameters = read_plan(config), count_parameters(shape, found.vocabulary)
    flops = count_flops(shape, rows, seq_len, reading.attended_tokens)
    ranks = tuple(
        _plan_rank(counted, rank, [next(traces) for _ in jobs], flops.full)
        for rank, jobs in zip(counted.ranks, counted.jobs, strict=True)
    )
    return RunEstimate(
        question=question,
        shape=shape,
        shape_origin=counted.shape_origin,
        vocabulary=found,
        parameters=parameters,
        flops=flops,
        steps=_steps(budget, counted.dp_degree),
        reading=reading,
        storage=count_storage(config, parameters.total, budget.num_steps),
        ranks=ranks,
        recomputed=sum(rank.recomputed_flops for rank in ranks)
        / sum(rank.pass_flops - rank.recomputed_flops for rank in ranks),
        left_out=counted.left_out,
        dry_run=dry_run(config, question.world_size) if question.dry_run else None,
    )


def _plan_rank(
    counted: Counted, stages: StagesOfRank | None, traces: Sequence[StepTrace], flops_per_token: float
) -> RankEstimate:
    question, shape, rows = counted.question, counted.shape, counted.found.vocabulary.num_rows
    if stages is not None:
        shape, rows = replace(shape, num_layers=sum(stages.num_layers)), rows if stages.has_head else 0
    trace = traces[0] if len(traces) == 1 else extended_trace(traces[0], traces[1], shape.num_layers)
    layout, seq_len = question.config.parallelism, question.config.training.seq_len
    tokens = question.config.training.local_batch_packs * seq_len
    tokens /= layout.tensor_parallel_degree * layout.context_parallel_degree
    pass_flops = trace.flops - tokens * counted_twice(shape, seq_len)
    return RankEstimate(
        stages=stages,
        trace=trace,
        pass_flops=pass_flops,
        recomputed_flops=max(0.0, trace.flops - tokens * traced_flops(shape, rows, seq_len)),
        memory=_memory(trace, question.device),
        speed=predict(
            question.config,
            question.world_size,
            trace,
            flops_per_token,
            pass_flops,
            question.device,
            DEFAULT_ASSUMPTIONS,
            question.price_per_gpu_hour,
        ),
    )


def _steps(budget: Budget, dp_degree: int) -> Steps:
    return Steps(
        tokens_per_step=budget.tokens_per_step,
        num_steps=budget.num_steps,
        total_tokens=budget.total_tokens,
        dp_degree=dp_degree,
        accumulation=budget.accumulation(dp_degree),
        filler_packs=budget.padding_packs(dp_degree),
        packs_per_step=budget.packs_per_step,
        local_batch_packs=budget.local_batch_packs,
    )


def _memory(trace: StepTrace, device: Device) -> Memory:
    peak = trace.peak
    phases = dict.fromkeys(one.phase for one in trace.peaks)
    on_gpu = device.name != "cpu"
    needed = (
        peak.total * (1 + DEFAULT_ASSUMPTIONS.fragmentation) + DEFAULT_ASSUMPTIONS.outside_bytes
        if on_gpu
        else peak.total
    )
    return Memory(
        by_component=dict(peak.num_bytes),
        place=peak.place,
        by_phase={name: max(one.total for one in trace.peaks if one.phase == name) for name in phases},
        needed_bytes=needed,
        device_bytes=device.memory_bytes,
    )
