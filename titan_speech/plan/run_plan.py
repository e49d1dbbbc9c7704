"""The plan of a run: everything that is said of it before it is started, as one value.

In: a loaded configuration, ranks, a device. Out: `RunPlan`, made of the values of the other files here; `plan_run` puts
them together. A run of many layers is traced with three and four of them and extended, since all that grows with depth
grows by the same amount for each layer; `full_trace` traces every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.tables import SpeechConfig
from titan_speech.model.shape import BackboneShape
from titan_speech.plan.counts import FlopsPerToken, Parameters, count_flops, count_parameters, traced_flops
from titan_speech.plan.dry_run import DryRun, dry_run
from titan_speech.plan.extend import extended_trace
from titan_speech.plan.hardware import ASSUMED, Device
from titan_speech.plan.reading import Reading, read_plan
from titan_speech.plan.rows import FoundVocabulary, run_shape, run_vocabulary
from titan_speech.plan.speed import Speed, predict
from titan_speech.plan.step import StepTrace, TraceJob, with_layers
from titan_speech.plan.storage import Storage, count_storage
from titan_speech.plan.this_machine import on_this_machine
from titan_speech.plan.trace_process import traced

TRACED_LAYERS = (3, 4)


@dataclass(frozen=True)
class Question:
    """What a plan is asked for."""

    config: SpeechConfig
    name: str
    world_size: int
    device: Device
    price_per_gpu_hour: float | None = None
    full_trace: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Steps:
    """The budget at this number of ranks."""

    tokens_per_step: int
    num_steps: int
    total_tokens: int
    dp_degree: int
    accumulation: int
    filler_packs: int
    packs_per_step: int
    local_batch_packs: int


@dataclass(frozen=True)
class Memory:
    """The fullest moment of a step on one GPU, and what the device has."""

    by_component: dict[str, int]
    place: str
    by_phase: dict[str, int]
    needed_bytes: float
    """With what no tensor holds; see the assumptions."""
    device_bytes: float
    """0: not known."""

    @property
    def tensor_bytes(self) -> int:
        return sum(self.by_component.values())

    @property
    def fits(self) -> bool | None:
        return None if not self.device_bytes else self.needed_bytes <= self.device_bytes


@dataclass(frozen=True)
class RunPlan:
    """Everything, computed and predicted."""

    question: Question
    shape: BackboneShape
    shape_origin: str
    vocabulary: FoundVocabulary
    parameters: Parameters
    flops: FlopsPerToken
    steps: Steps
    reading: Reading
    storage: Storage
    trace: StepTrace
    recomputed: float
    """FLOPs of recomputation over those of the model."""
    memory: Memory
    speed: Speed | None
    left_out: tuple[str, ...]
    """What the trace does without."""
    dry_run: DryRun | None
    """None: not asked for."""


def plan_run(question: Question) -> RunPlan:
    """Count, trace and predict.

    Raises:
        PlanError: the run does not fit together at this number of ranks.
    """
    return plan_runs([question])[0]


def plan_runs(questions: Sequence[Question]) -> list[RunPlan]:
    """Plan several runs; those of one layout are traced in one process, which saves importing torch for each.

    Raises:
        PlanError: one of them does not fit together.
    """
    counted = [_count(question) for question in questions]
    traces = iter(traced([job for one in counted for job in one.jobs]))
    return [_predict(one, [next(traces) for _ in one.jobs]) for one in counted]


@dataclass(frozen=True)
class _Counted:
    """What is known of a run before it is traced, and the traces it needs."""

    question: Question
    found: FoundVocabulary
    shape: BackboneShape
    shape_origin: str
    budget: Budget
    jobs: tuple[TraceJob, ...]
    left_out: tuple[str, ...]

    @property
    def dp_degree(self) -> int:
        return data_parallel_degree(self.question.config.parallelism, self.question.world_size)


def _count(question: Question) -> _Counted:
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
    all_layers = question.full_trace or shape.num_layers <= TRACED_LAYERS[-1]
    jobs = (job,) if all_layers else tuple(with_layers(job, layers) for layers in TRACED_LAYERS)
    return _Counted(question, found, shape, shape_origin, budget, jobs, tuple(left_out))


def _predict(counted: _Counted, traces: Sequence[StepTrace]) -> RunPlan:
    question, shape, found, budget = counted.question, counted.shape, counted.found, counted.budget
    config, world_size, dp_degree = question.config, question.world_size, counted.dp_degree
    rows, seq_len = found.vocabulary.num_rows, config.training.seq_len
    reading, parameters = read_plan(config), count_parameters(shape, found.vocabulary)
    flops = count_flops(shape, rows, seq_len, reading.attended_tokens)
    trace = traces[0] if len(traces) == 1 else extended_trace(traces[0], traces[1], shape.num_layers)
    once = config.training.local_batch_packs * seq_len * dp_degree / world_size * traced_flops(shape, rows, seq_len)
    recomputed = max(0.0, trace.flops - once)
    return RunPlan(
        question=question,
        shape=shape,
        shape_origin=counted.shape_origin,
        vocabulary=found,
        parameters=parameters,
        flops=flops,
        steps=_steps(budget, dp_degree),
        reading=reading,
        storage=count_storage(config, parameters.total, budget.num_steps),
        trace=trace,
        recomputed=recomputed / once,
        memory=_memory(trace, question.device),
        speed=predict(
            config, world_size, trace, flops.full, recomputed, question.device, ASSUMED, question.price_per_gpu_hour
        ),
        left_out=counted.left_out,
        dry_run=dry_run(config, world_size) if question.dry_run else None,
    )


def _steps(budget: Budget, dp_degree: int) -> Steps:
    return Steps(
        tokens_per_step=budget.tokens_per_step,
        num_steps=budget.num_steps,
        total_tokens=budget.total_tokens,
        dp_degree=dp_degree,
        accumulation=budget.accumulation(dp_degree),
        filler_packs=budget.filler_packs(dp_degree),
        packs_per_step=budget.packs_per_step,
        local_batch_packs=budget.local_batch_packs,
    )


def _memory(trace: StepTrace, device: Device) -> Memory:
    peak = trace.peak
    phases = dict.fromkeys(one.phase for one in trace.peaks)
    on_gpu = device.name != "cpu"
    needed = peak.total * (1 + ASSUMED.fragmentation) + ASSUMED.outside_bytes if on_gpu else peak.total
    return Memory(
        by_component=dict(peak.num_bytes),
        place=peak.place,
        by_phase={name: max(one.total for one in trace.peaks if one.phase == name) for name in phases},
        needed_bytes=needed,
        device_bytes=device.memory_bytes,
    )
