"""When checkpoints are written, which are kept, and where they go.

What is watched and told of a run: its health, figures, profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CadenceRule:
    """How often checkpoints are saved in a stretch of the run; by default every 1,000 steps up to 10,000, every 5,000
    up to 50,000, then every 10,000. Written as cadence = [{until = 10_000, every = 1_000}, ..., {every = 10_000}]."""

    every: int
    """Steps between checkpoints: those it divides."""

    until: int | None = None
    """Last step of the stretch; none: to the end."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """DCP checkpoints: when they are saved, and which are kept."""

    enable: bool = True
    """Save and resume."""

    folder: str = "checkpoint"
    """Folder inside the run folder."""

    cadence: tuple[CadenceRule, ...] = (
        CadenceRule(until=10_000, every=1_000),
        CadenceRule(until=50_000, every=5_000),
        CadenceRule(every=10_000),
    )
    """When a checkpoint is saved; the last step always is."""

    at_least_every_minutes: float = 30.0
    """Also save when the last save is longer ago than this; 0: only by cadence."""

    keep_last_full: int = 5
    """Newest checkpoints a run can resume from; 0 keeps all, as they are."""

    keep_last_model_only: int = 20
    """Older ones that are kept as weights only; what is older still is deleted."""

    milestone_every_steps: int = 50_000
    """Every so many steps one is kept for ever, in full; 0: none. Others can be pinned: titan-speech checkpoint pin."""

    export_milestones: bool = True
    """Also write milestones and what is pinned as Hugging Face folders, hf/step-N in the run folder, by a process
    beside training."""

    async_mode: Literal["disabled", "async", "async_with_pinned_mem"] = "async"
    """How a save overlaps with training: not at all; written in the background from a copy in memory; or copied in the
    background too, while the next step computes its gradients (on CUDA into page-locked memory)."""

    max_failed_saves: int = 3
    """Saves that may fail in a row (disk full, no access) before the run stops; the last step's must not fail."""

    verify_checksums: bool = True
    """Read a checkpoint's every byte before the run resumes from it; without, sizes only."""

    load_step: int = -1
    """Step to resume from; -1 is the newest. A step that is not there stops the run."""

    initial_load_path: str = ""
    """Checkpoint folder (.../step-N, also s3://bucket/prefix/step-N) whose weights a run without checkpoints of its own
    starts from."""

    create_seed_checkpoint: bool = False
    """Write freshly initialised weights as step 0 and stop; one process."""


UploadKind = Literal["full", "model", "hf"]


@dataclass(frozen=True, kw_only=True)
class UploadConfig:
    """Checkpoints to object storage in the background (see [storage] for the server), and back to a new machine."""

    to: str = ""
    """s3://bucket/prefix of this run alone; empty: nothing is uploaded. A run whose own folder has no newer checkpoint
    resumes from the newest that is complete there."""

    kinds: tuple[UploadKind, ...] = ("full", "model", "hf")
    """What goes up: full checkpoints, those reduced to weights, milestones as Hugging Face folders."""

    keep: Literal["policy", "all"] = "policy"
    """policy: what [checkpoint] would delete in the run folder is removed there too; all: nothing ever is, and what is
    not there yet stays in the run folder while its disk has room for two more."""

    part_mb: float = 16.0
    """Bytes of a file sent at once (1 MB = 1e6 bytes); at least 5.3."""

    num_connections: int = 4
    """Requests a node makes at once; its uploads take about part_mb of memory for each."""

    bandwidth_mb_per_sec: float = 0.0
    """Most that a node sends, on average; 0: no limit."""

    finish_sec: float = 3600.0
    """How long the end of a run waits until everything is up."""

    stop_sec: float = 30.0
    """The same for a run that a signal or a rollback ended, and that will be started again."""


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """Steps that are not as they should be, and signals."""

    max_skipped_steps: int = 10
    """A step whose loss or gradient is not finite is skipped: its data is passed over, weights and optimizer stay as
    they are. More than this many among the last skip_window_steps end the run."""

    skip_window_steps: int = 100
    """See max_skipped_steps."""

    spike_z: float = 8.0
    """A loss is a spike when it lies this many robust standard deviations above the median of the last
    spike_window_steps; 0 looks for none. Steps of the warmup are left out."""

    spike_window_steps: int = 100
    """See spike_z; until it is full, nothing is a spike."""

    on_spike: Literal["warn", "rollback"] = "warn"
    """warn: say it and go on; rollback: go back to the last checkpoint before the spike_skip_steps steps that end with
    the spike, and pass over their data. The run ends with code 75 for that, and is to be started again."""

    spike_skip_steps: int = 10
    """See on_spike."""

    max_rollbacks: int = 3
    """Rollbacks in a run; the next spike ends it."""

    stop_within_sec: float = 120.0
    """After SIGTERM or SIGUSR1 all ranks save at the next step boundary and leave with code 75; a rank that is not done
    by then leaves without. torchrun waits for --shutdown-timeout only (default 30 s)."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Where figures go. metrics.jsonl in the run folder is always written."""

    log_every_steps: int = 10
    """Steps between two log lines."""

    tensorboard: bool = False
    """Write TensorBoard events."""

    wandb: bool = False
    """Send to Weights & Biases (WANDB_MODE=offline is respected)."""


@dataclass(frozen=True, kw_only=True)
class ProfilerConfig:
    """Traces of rank 0, in profiling/traces of the run folder: what the time of a step goes to."""

    enable: bool = False
    """Write them."""

    first_steps: int = 2
    """Steps from the start of the process on that are in the first trace; 0: none."""

    steady_from: int = 20
    """Steps that pass before the second trace begins."""

    steady_steps: int = 3
    """Steps in the second trace; 0: none."""
