"""The TOML tables, one dataclass each; the text under a field is its `--help`.

Table and field names follow TorchTitan's where a person would write them. What a run derives from them (steps,
accumulation, schedule) is computed in `titan_speech.config.budget`, never written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from titan_speech.config.tables.checkpoint import CadenceRule, CheckpointTable, UploadTable
from titan_speech.config.tables.data import (
    DataTable,
    LanguageRuleTable,
    SourceTable,
    StorageTable,
    TaskName,
    TranscriptVariant,
)
from titan_speech.config.tables.layout import ActivationCheckpointTable, CompileTable, Float8Table, ParallelismTable
from titan_speech.config.tables.model import ModelTable, TokenizerTable
from titan_speech.config.tables.run import CommTable, DebugTable, JobTable, StageTable
from titan_speech.config.tables.training import LossTable, LRSchedulerTable, OptimizerTable, TrainingTable
from titan_speech.config.tables.watch import HealthTable, MetricsTable, ProfilerTable

__all__ = [
    "ActivationCheckpointTable",
    "CadenceRule",
    "CheckpointTable",
    "CommTable",
    "CompileTable",
    "DataTable",
    "DebugTable",
    "Float8Table",
    "HealthTable",
    "JobTable",
    "LRSchedulerTable",
    "LanguageRuleTable",
    "LossTable",
    "MetricsTable",
    "ModelTable",
    "OptimizerTable",
    "ParallelismTable",
    "ProfilerTable",
    "SourceTable",
    "SpeechConfig",
    "StageTable",
    "StorageTable",
    "TaskName",
    "TokenizerTable",
    "TrainingTable",
    "TranscriptVariant",
    "UploadTable",
]


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """A whole run. `[job] extends = "other.toml"` inherits; `--table.key value` overrides."""

    job: JobTable = field(default_factory=JobTable)
    stage: StageTable = field(default_factory=StageTable)
    model: ModelTable = field(default_factory=ModelTable)
    tokenizer: TokenizerTable = field(default_factory=TokenizerTable)
    data: DataTable = field(default_factory=DataTable)
    storage: StorageTable = field(default_factory=StorageTable)
    training: TrainingTable = field(default_factory=TrainingTable)
    optimizer: OptimizerTable = field(default_factory=OptimizerTable)
    lr_scheduler: LRSchedulerTable = field(default_factory=LRSchedulerTable)
    loss: LossTable = field(default_factory=LossTable)
    parallelism: ParallelismTable = field(default_factory=ParallelismTable)
    activation_checkpoint: ActivationCheckpointTable = field(default_factory=ActivationCheckpointTable)
    compile: CompileTable = field(default_factory=CompileTable)
    float8: Float8Table = field(default_factory=Float8Table)
    checkpoint: CheckpointTable = field(default_factory=CheckpointTable)
    upload: UploadTable = field(default_factory=UploadTable)
    health: HealthTable = field(default_factory=HealthTable)
    metrics: MetricsTable = field(default_factory=MetricsTable)
    profiler: ProfilerTable = field(default_factory=ProfilerTable)
    comm: CommTable = field(default_factory=CommTable)
    debug: DebugTable = field(default_factory=DebugTable)
