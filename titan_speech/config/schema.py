"""The TOML tables of a run, one dataclass each; the text under a field is its help (`--config-help`).

    schema_data.py          what is read: sources, shares, language rules, held-out sets, object storage
    schema_training.py      what is trained and how: backbone, token budget, optimizer, learning-rate schedule, loss
    schema_parallelism.py   how a step is computed: parallelism, activation checkpointing, compilation, float8
    schema_operations.py    how a run is operated: checkpoints, their upload, fault handling, logging, profiling
    schema.py               the run itself, and `SpeechConfig`, which has all tables

Types, choices (`Literal`) and bounds (`Bounds`) are those of the field; what several keys contradict is checked in
preflight/. Names follow TorchTitan's where a person would write them. What a run derives from its tables (steps,
accumulation, schedule) is computed in `budget.py` and never written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from titan_speech.config.fields import Bounds
from titan_speech.config.schema_data import DataConfig, StorageConfig
from titan_speech.config.schema_operations import (
    CheckpointConfig,
    HealthConfig,
    MetricsConfig,
    ProfilerConfig,
    UploadConfig,
)
from titan_speech.config.schema_parallelism import (
    ActivationCheckpointConfig,
    CommConfig,
    CompileConfig,
    Float8Config,
    ParallelismConfig,
)
from titan_speech.config.schema_training import (
    GenerationCheckConfig,
    LoRAConfig,
    LossConfig,
    LRSchedulerConfig,
    ModelConfig,
    OptimizerConfig,
    PreferenceConfig,
    TokenizerConfig,
    TrainingConfig,
    ValidationConfig,
)


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Description and output folder of the run."""

    description: str = ""
    """One line that describes the run; saved with it."""

    dump_folder: str = "outputs/run"
    """Run folder, relative to the working directory: checkpoints, metrics.jsonl, resolved configuration."""

    umask: Literal["", "002", "007", "022", "027", "077"] = ""
    """Permissions that new files of the run do not get. 027: the group reads, others do nothing; 077: only this user.
    Empty: the umask of the shell, by which usually everyone can read."""

    seed: Annotated[int, Bounds(at_least=0)] = 0
    """Seed of the weight initialization (the data order has its own: data.seed)."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Warm start: what is loaded from the previous stage. Applies only while the run has no checkpoint of its own; a
    stage that crashed resumes from its own checkpoint."""

    from_: str = ""
    """Run folder of the previous stage (its newest complete checkpoint is loaded), or one of its checkpoints
    (.../step-N); either may be at s3:// (its upload.to). Weights are loaded, the learning-rate schedule starts at step
    0. Empty: the first stage."""

    optimizer: bool = False
    """Also load the optimizer state (AdamW moments); learning rate, betas and weight decay are always this stage's."""

    continue_data: bool = True
    """Continue each data stream at the read position where the previous stage ended (as data.continue_from does, which
    takes precedence)."""

    branch: bool = False
    """Continue the run at `from` in this run's folder, as if it had been resumed: weights, optimizer, step, schedule
    and data. For decays of one stable run; target_tokens counts from the first step of that run."""

    strict: bool = False
    """Stop instead of warning if the peak learning rate is above the one the previous stage ended with."""

    @property
    def num_done(self) -> int:
        """Steps that are done where a branch starts, by the name of its checkpoint; 0 if that is not named."""
        _, is_step, number = self.from_.rstrip("/").rpartition("/step-")
        return int(number) if self.branch and is_step and number.isdecimal() else 0


@dataclass(frozen=True, kw_only=True)
class DebugConfig:
    """Debugging switches."""

    deterministic: bool = False
    """Use deterministic kernels."""


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """A whole run. `[job] extends = "other.toml"` inherits; `--table.key value` overrides."""

    job: JobConfig = field(default_factory=JobConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_scheduler: LRSchedulerConfig = field(default_factory=LRSchedulerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    generation_check: GenerationCheckConfig = field(default_factory=GenerationCheckConfig)
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
