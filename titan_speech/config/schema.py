"""What a run is called, and what it comes from.

The TOML tables, one dataclass each; the text under a field is its `--help`.

Table and field names follow TorchTitan's where a person would write them. What a run derives from them (steps,
accumulation, schedule) is computed in `titan_speech.config.budget`, never written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from titan_speech.config.schema_data import (
    DataConfig,
    LanguageRuleConfig,
    SourceConfig,
    StorageConfig,
    TaskName,
    TranscriptVariant,
)
from titan_speech.config.schema_operations import (
    CadenceRule,
    CheckpointConfig,
    HealthConfig,
    MetricsConfig,
    ProfilerConfig,
    UploadConfig,
)
from titan_speech.config.schema_training import (
    ActivationCheckpointConfig,
    CompileConfig,
    Float8Config,
    LossConfig,
    LRSchedulerConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelismConfig,
    TokenizerConfig,
    TrainingConfig,
)


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What the run is called and where it writes."""

    description: str = ""
    """One line that says what this run is; saved with it."""

    dump_folder: str = "outputs/run"
    """Run folder, relative to the working directory: checkpoints, metrics.jsonl, resolved configuration."""

    seed: int = 0
    """Seed of the weight initialisation (data order has its own: data.seed)."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What a stage takes over from the one before. It counts only while the run has no checkpoint of its own: a crash
    inside the stage resumes the stage."""

    from_: str = ""
    """Run folder of the stage before (its newest complete checkpoint), or one of its checkpoints (.../step-N); either
    may be at s3:// (its upload.to). Weights are taken over, the schedule starts anew. Empty: the first stage."""

    optimizer: bool = False
    """Take over the moments of AdamW too; learning rate, betas and weight decay are always this stage's."""

    continue_data: bool = True
    """Read each data stream on from where the stage before left it (as data.continue_from, which goes before it)."""

    strict: bool = False
    """Stop, and do not only warn, if the peak learning rate is above the one the stage before ended with."""


@dataclass(frozen=True, kw_only=True)
class CommConfig:
    """Time limits of collectives."""

    init_timeout_seconds: int = 300
    """Limit during start-up and the first step."""

    train_timeout_seconds: int = 100
    """Limit afterwards."""


@dataclass(frozen=True, kw_only=True)
class DebugConfig:
    """Switches for finding faults."""

    deterministic: bool = False
    """Use deterministic kernels."""


__all__ = [
    "ActivationCheckpointConfig",
    "CadenceRule",
    "CheckpointConfig",
    "CommConfig",
    "CompileConfig",
    "DataConfig",
    "DebugConfig",
    "Float8Config",
    "HealthConfig",
    "JobConfig",
    "LRSchedulerConfig",
    "LanguageRuleConfig",
    "LossConfig",
    "MetricsConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelismConfig",
    "ProfilerConfig",
    "SourceConfig",
    "SpeechConfig",
    "StageConfig",
    "StorageConfig",
    "TaskName",
    "TokenizerConfig",
    "TrainingConfig",
    "TranscriptVariant",
    "UploadConfig",
]


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """A whole run. `[job] extends = "other.toml"` inherits; `--table.key value` overrides."""

    job: JobConfig = field(default_factory=JobConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_scheduler: LRSchedulerConfig = field(default_factory=LRSchedulerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    activation_checkpoint: ActivationCheckpointConfig = field(default_factory=ActivationCheckpointConfig)
    compile: CompileConfig = field(default_factory=CompileConfig)
    float8: Float8Config = field(default_factory=Float8Config)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    upload: UploadConfig = field(default_factory=UploadConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    profiler: ProfilerConfig = field(default_factory=ProfilerConfig)
    comm: CommConfig = field(default_factory=CommConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
