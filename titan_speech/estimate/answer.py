"""How long a step takes, from a stated model; a prediction, not a measurement.

In: FLOPs, what the trace sends, the device, the assumptions. Out: `Speed`.

    computing = (FLOPs of the model + recomputed ones) of a pass on one GPU / (peak * efficiency) * (1 + bubble)
    sending   = for each collective, bytes sent / rate of its slowest link
    pass      = computing + sending that cannot hide: at least (1 - overlap) of it, all that is longer than computing
    step      = passes * pass + sending of the optimizer step

Of a pipeline it is the time of its slowest rank, which the others fill the pipeline before and drain it after; what
stages send each other is waited for. A ring over whole nodes leaves each node through all its network cards at once, so
its rate is the cards' sum, at most the link inside; a group with one rank a node has one card.

How large checkpoints are, and what all that are kept take.

In: parameters, their type, the [checkpoint] table and the steps of the run. Out: `Storage`. A full checkpoint holds the
weights and two moments of AdamW of the same type; a few MB of metadata, loader state and provenance are not counted,
nor are saves that only checkpoint.at_least_every_minutes asks for.

What a plan is asked for and what it answers, as values.

In: nothing. Out: `Question`, and `RunPlan` with its parts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from titan_speech.checkpoint.retention import Kept, RetentionPolicy, is_due, removal
from titan_speech.config.budget import Budget, data_parallel_degree
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import StagesOfRank, bubble
from titan_speech.estimate.data_reading import Reading
from titan_speech.estimate.devices import Assumptions, Device
from titan_speech.estimate.dry_run import DryRun
from titan_speech.estimate.memory import StepTrace
from titan_speech.estimate.rows import FoundVocabulary
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import FlopsPerToken, Parameters


@dataclass(frozen=True)
class Speed:
    """Seconds of a step and what follows from them."""

    computing_sec: float
    """Of all passes of a step."""
    sending_sec: float
    """Of all collectives of a step, hidden or not."""
    exposed_sec: float
    """What of it computing waits for."""
    step_sec: float
    tokens_per_sec_per_gpu: float
    """Tokens of the run; fillers are not counted."""
    mfu: float
    """Model FLOPs at full attention length, without recomputation and fillers, over the bf16 peak."""
    run_hours: float
    gpu_hours: float
    price: float | None


def predict(
    config: SpeechConfig,
    world_size: int,
    trace: StepTrace,
    model_flops_per_token: float,
    pass_flops: float,
    device: Device,
    assumed: Assumptions,
    price_per_gpu_hour: float | None,
) -> Speed | None:
    """None for a device without a peak. `pass_flops`: of one pass on this GPU, recomputed ones included."""
    if not device.bf16_flops:
        return None
    budget, layout = Budget.from_config(config), config.parallelism
    dp_degree = data_parallel_degree(layout, world_size)
    passes = budget.accumulation(dp_degree)
    rate = device.bf16_flops * assumed.efficiency * _factor(config, device, assumed)
    computing = pass_flops / rate * bubble(config)
    hidden, waiting = _sending(config, trace, "pass", device, assumed)
    exposed = max(hidden * (1 - assumed.overlap), hidden - computing) + waiting
    last = sum(_sending(config, trace, "optimizer", device, assumed))
    step_sec = passes * (computing + exposed) + last
    hours = budget.num_steps * step_sec / 3600
    rate_of_tokens = budget.tokens_per_step / step_sec / world_size
    return Speed(
        computing_sec=passes * computing,
        sending_sec=passes * (hidden + waiting) + last,
        exposed_sec=passes * exposed + last,
        step_sec=step_sec,
        tokens_per_sec_per_gpu=rate_of_tokens,
        mfu=rate_of_tokens * model_flops_per_token / device.bf16_flops,
        run_hours=hours,
        gpu_hours=hours * world_size,
        price=None if price_per_gpu_hour is None else hours * world_size * price_per_gpu_hour,
    )


def _factor(config: SpeechConfig, device: Device, assumed: Assumptions) -> float:
    factor = 1.0 if config.compile.enable else assumed.eager_factor
    gains = _uses_float8(config) and config.compile.enable and device.fp8_flops is not None
    return factor * (assumed.float8_factor if gains else 1.0)


def _uses_float8(config: SpeechConfig) -> bool:
    return config.float8.recipe != "none" and not config.float8.emulate


def _sending(
    config: SpeechConfig, trace: StepTrace, when: str, device: Device, assumed: Assumptions
) -> tuple[float, float]:
    """Seconds of what can hide behind computing (weights and gradients), and the rest after its own overlap."""
    hidden = waiting = 0.0
    is_async = config.compile.enable_async_tensor_parallel
    overlap = assumed.async_tensor_parallel_overlap if is_async else assumed.tensor_parallel_overlap
    inner = _ranks_of_a_sequence(config)
    for traffic in trace.traffic:
        phase, kind, ranks = traffic.collective
        if phase != when:
            continue
        between_stages = kind == "point_to_point"
        rate = neighbour_rate(ranks, device) if between_stages else link_rate(ranks, device)
        seconds = traffic.bytes_sent / (rate * assumed.bus_efficiency)
        if between_stages or ranks[-1] - ranks[0] < inner:  # ranks of one sequence are neighbours
            waiting += seconds * (1 - overlap)
        else:
            hidden += seconds
    return hidden, waiting


def _ranks_of_a_sequence(config: SpeechConfig) -> int:
    layout = config.parallelism
    return layout.tensor_parallel_degree * layout.context_parallel_degree


def link_rate(ranks: tuple[int, ...], device: Device) -> float:
    """Bytes a second of a ring over these ranks, numbered node by node."""
    per_node = Counter(rank // device.devices_per_node for rank in ranks)
    if len(per_node) == 1:
        return device.local_bytes
    return min(device.local_bytes, min(per_node.values()) * device.nic_bytes)


def neighbour_rate(ranks: tuple[int, ...], device: Device) -> float:
    """Bytes a second from one rank to the next of a pipeline, where that leaves a node if any step does."""
    nodes = {rank // device.devices_per_node for rank in ranks}
    return device.local_bytes if len(nodes) == 1 else device.nic_bytes


def bytes_sent(trace: StepTrace, passes: int) -> float:
    """Bytes one rank sends in a step of so many passes."""
    return sum(one.bytes_sent * (passes if one.collective.phase == "pass" else 1) for one in trace.traffic)


BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Storage:
    """Bytes of checkpoints."""

    full_bytes: int
    model_only_bytes: int
    num_saved: int
    """Written over the run."""
    num_kept_full: int
    num_kept_model_only: int

    @property
    def kept_bytes(self) -> int:
        """At the end of the run."""
        return self.num_kept_full * self.full_bytes + self.num_kept_model_only * self.model_only_bytes

    @property
    def most_bytes(self) -> int:
        """While one more is written, before an older one goes."""
        return self.kept_bytes + (self.full_bytes if self.num_saved > self.num_kept_full else 0)


def count_storage(config: SpeechConfig, num_parameters: int, num_steps: int) -> Storage:
    size, table = BYTES[config.training.dtype], config.checkpoint
    saved = [step for step in range(1, num_steps + 1) if step == num_steps or is_due(table.cadence, step)]
    saved = saved if table.enable else []
    policy = RetentionPolicy(table.keep_last_full, table.keep_last_model_only, table.milestone_every_steps)
    gone = removal([Kept(step) for step in saved], policy)
    return Storage(
        full_bytes=3 * size * num_parameters,
        model_only_bytes=size * num_parameters,
        num_saved=len(saved),
        num_kept_full=len(saved) - len(gone.thin) - len(gone.delete),
        num_kept_model_only=len(gone.thin),
    )


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
class RankEstimate:
    """One GPU of those that hold the same layers: all of them, or a rank of a pipeline."""

    stages: StagesOfRank | None
    """None without a pipeline."""
    trace: StepTrace
    pass_flops: float
    """Of one pass, recomputed ones included."""
    recomputed_flops: float
    memory: Memory
    speed: Speed | None


@dataclass(frozen=True)
class RunEstimate:
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
    ranks: tuple[RankEstimate, ...]
    """Those of a pipeline that were traced; else one, which stands for all."""
    recomputed: float
    """FLOPs of recomputation over those of the model."""
    left_out: tuple[str, ...]
    """What the trace does without."""
    dry_run: DryRun | None
    """None: not asked for."""

    @property
    def fullest(self) -> RankEstimate:
        return max(self.ranks, key=lambda rank: rank.memory.tensor_bytes)

    @property
    def slowest(self) -> RankEstimate:
        return max(self.ranks, key=lambda rank: rank.speed.step_sec if rank.speed else rank.pass_flops)

    @property
    def memory(self) -> Memory:
        return self.fullest.memory

    @property
    def trace(self) -> StepTrace:
        """Of the rank that holds most."""
        return self.fullest.trace

    @property
    def speed(self) -> Speed | None:
        return self.slowest.speed
