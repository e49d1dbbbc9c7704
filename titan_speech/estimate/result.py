"""What an estimate is asked for and what it holds, as values, with the space its checkpoints take.

In: nothing but the values themselves. Out: `EstimateRequest`, and `RunEstimate` with its parts; their fields are the
keys of the JSON (docs/formats.md).

A full checkpoint holds the weights that are trained and two moments of AdamW of the same type; a head tied with the
embedding is stored once more, under its own name. A few MB of metadata, loader state and provenance are not counted,
nor are saves that only checkpoint.at_least_every_minutes causes.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.checkpoint.retention import RetentionPolicy, StoredCheckpoint, choose_removal, is_due
from titan_speech.config.schema import SpeechConfig
from titan_speech.distributed.pipeline import StagesOfRank
from titan_speech.estimate.data_usage import DataUsage
from titan_speech.estimate.devices import Device
from titan_speech.estimate.dry_run import DryRun
from titan_speech.estimate.efficiencies import DEFAULT_EFFICIENCIES, Efficiencies
from titan_speech.estimate.offline import RunVocabulary
from titan_speech.estimate.preference_cost import ReferencePassCost
from titan_speech.estimate.speed import Speed
from titan_speech.estimate.speed_by_parts import SpeedByParts
from titan_speech.estimate.step_trace import StepTrace
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.flops import FlopsPerToken, Parameters

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class EstimateRequest:
    """What is estimated."""

    config: SpeechConfig
    name: str
    """Of the configuration, for pages."""
    world_size: int
    device: Device
    price_per_gpu_hour: float | None = None
    full_trace: bool = False
    """Trace every layer instead of extrapolating from three and four."""
    dry_run: bool = False
    """Also take real steps of two layers."""
    efficiencies: Efficiencies = DEFAULT_EFFICIENCIES
    """Assumed, or from the report of a GPU."""


@dataclass(frozen=True)
class Steps:
    """The token budget at this number of ranks."""

    tokens_per_step: int
    num_steps: int
    """Of this run: a branch has done some in the run it continues."""
    total_tokens: int
    dp_degree: int
    accumulation: int
    filler_packs: int
    """Padding packs per step."""
    packs_per_step: int
    local_batch_packs: int


@dataclass(frozen=True)
class Storage:
    """Bytes of checkpoints."""

    full_bytes: int
    model_only_bytes: int
    num_saved: int
    """Written over the whole run."""
    num_kept_full: int
    num_kept_model_only: int

    @property
    def kept_bytes(self) -> int:
        """At the end of the run."""
        return self.num_kept_full * self.full_bytes + self.num_kept_model_only * self.model_only_bytes

    @property
    def most_bytes(self) -> int:
        """While one more is written, before an older one is removed."""
        return self.kept_bytes + (self.full_bytes if self.num_saved > self.num_kept_full else 0)


def count_storage(config: SpeechConfig, num_trained: int, num_steps: int, num_tied: int = 0) -> Storage:
    """Args:
    num_trained: parameters that are trained.
    num_tied: parameters of the head among the stored weights, if it is tied with the embedding; they have no moments of
        their own.
    num_steps: of the whole run.
    """
    size, settings = DTYPE_BYTES[config.training.dtype], config.checkpoint
    saved = [
        step
        for step in range(config.stage.num_done + 1, num_steps + 1)
        if step == num_steps or is_due(settings.cadence, step)
    ]
    saved = saved if settings.enable else []
    moment = 2 if config.optimizer.implementation == "fused_opt_states_bf16" else size
    policy = RetentionPolicy.from_config(settings)
    removed = choose_removal([StoredCheckpoint(step) for step in saved], policy)
    return Storage(
        full_bytes=(size + 2 * moment) * num_trained + size * num_tied,
        model_only_bytes=size * (num_trained + num_tied),
        num_saved=len(saved),
        num_kept_full=len(saved) - len(removed.drop_optimizer) - len(removed.delete),
        num_kept_model_only=len(removed.drop_optimizer),
    )


@dataclass(frozen=True)
class Memory:
    """The peak of a step on one GPU, and what the device has."""

    by_component: dict[str, int]
    place: str
    by_phase: dict[str, int]
    needed_bytes: float
    """With memory outside of tensors; see the assumptions."""
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

    request: EstimateRequest
    shape: BackboneShape
    shape_origin: str
    vocabulary: RunVocabulary
    parameters: Parameters
    flops: FlopsPerToken
    steps: Steps
    data: DataUsage
    storage: Storage
    ranks: tuple[RankEstimate, ...]
    """The traced ranks of a pipeline; else one, which stands for all."""
    recomputed: float
    """FLOPs of recomputation over those of the model."""
    left_out: tuple[str, ...]
    """Features that the trace does not cover."""
    dry_run: DryRun | None
    """None: not asked for."""
    by_parts: SpeedByParts | None
    """None: a pipeline, or a device without a peak."""
    reference: ReferencePassCost | None = None
    """Before the first step of preference training; None: no such pass."""

    @property
    def flops_per_token(self) -> float:
        """With attention at full length (seq_len tokens attended): how MFU is usually counted."""
        return self.flops.at(self.request.config.training.seq_len)

    @property
    def attention_flops(self) -> dict[str, float | None]:
        """Per token: at full length, causal in packs of one document, and packed (None if the stores were not read)."""
        seq_len, attended = self.request.config.training.seq_len, self.data.attended_tokens
        return {
            "full": self.flops.attention(seq_len),
            "causal": self.flops.attention((seq_len + 1) / 2),
            "packed": None if attended is None else self.flops.attention(attended),
        }

    @property
    def fullest(self) -> RankEstimate:
        """The rank that holds most."""
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
