"""What a plan is asked for and what it answers, as values.

In: nothing. Out: `Question`, and `RunPlan` with its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.config.tables import SpeechConfig
from titan_speech.model.shape import BackboneShape
from titan_speech.parallel.pipeline import StagesOfRank
from titan_speech.plan.counts import FlopsPerToken, Parameters
from titan_speech.plan.dry_run import DryRun
from titan_speech.plan.hardware import Device
from titan_speech.plan.reading import Reading
from titan_speech.plan.rows import FoundVocabulary
from titan_speech.plan.speed import Speed
from titan_speech.plan.step import StepTrace
from titan_speech.plan.storage import Storage


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
class RankPlan:
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
    ranks: tuple[RankPlan, ...]
    """Those of a pipeline that were traced; else one, which stands for all."""
    recomputed: float
    """FLOPs of recomputation over those of the model."""
    left_out: tuple[str, ...]
    """What the trace does without."""
    dry_run: DryRun | None
    """None: not asked for."""

    @property
    def fullest(self) -> RankPlan:
        return max(self.ranks, key=lambda rank: rank.memory.tensor_bytes)

    @property
    def slowest(self) -> RankPlan:
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
