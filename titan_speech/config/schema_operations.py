"""How a run is operated: checkpoints, their upload, fault handling, logging, profiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from titan_speech.config.fields import Bounds


@dataclass(frozen=True, kw_only=True)
class CadenceRule:
    """Save interval in one part of the run; by default every 1,000 steps up to step 10,000, every 5,000 up to 50,000,
    then every 10,000. Written as cadence = [{until = 10_000, every = 1_000}, ..., {every = 10_000}]."""

    every: Annotated[int, Bounds(at_least=1)]
    """Steps between checkpoints: a step is saved if it is a multiple."""

    until: int | None = None
    """Last step the rule applies to; none: the last step of the run."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """DCP checkpoints: save interval and retention."""

    enable: bool = True
    """Save checkpoints and resume from them."""

    folder: str = "checkpoint"
    """Checkpoint folder, inside the run folder."""

    cadence: tuple[CadenceRule, ...] = (
        CadenceRule(until=10_000, every=1_000),
        CadenceRule(until=50_000, every=5_000),
        CadenceRule(every=10_000),
    )
    """Save interval; the last step is always saved."""

    at_least_every_minutes: Annotated[float, Bounds(at_least=0)] = 30.0
    """Also save if the last save is more than this many minutes ago; 0: save by cadence only."""

    keep_last_full: Annotated[int, Bounds(at_least=0)] = 5
    """Newest checkpoints that are kept in full, to resume from; 0 keeps all checkpoints in full."""

    keep_last_model_only: Annotated[int, Bounds(at_least=0)] = 20
    """Checkpoints before those of which only the weights are kept; older ones are deleted."""

    milestone_every_steps: Annotated[int, Bounds(at_least=0)] = 50_000
    """Interval, in steps, of milestones: checkpoints exempt from retention, kept in full; 0: no milestones. Any other
    checkpoint can be exempted by titan-speech checkpoint pin."""

    export_milestones: bool = True
    """Also export milestones and pinned checkpoints as Hugging Face model folders, hf/step-N in the run folder, by a
    separate process during training."""

    async_mode: Literal["disabled", "async", "async_with_pinned_mem"] = "async"
    """Asynchronous saving. disabled: training waits for the save; async: weights are copied to memory, then written in
    the background; async_with_pinned_mem: the copy too overlaps with the next step's forward and backward pass (on
    CUDA, into pinned memory)."""

    max_failed_saves: Annotated[int, Bounds(at_least=1)] = 3
    """Consecutive failed saves (disk full, no access) after which the run stops; the save of the last step must
    succeed."""

    verify_checksums: bool = True
    """Verify the checksums of all files of a checkpoint before the run resumes from it; false: file sizes only."""

    max_rms_growth: Annotated[float, Bounds(at_least=0)] = 4.0
    """A checkpoint is marked suspect, and a run does not resume from it by itself, if the root mean square of a weight
    tensor is more than this many times what it was at the last checkpoint that is not suspect, or at the start; 0:
    never. A checkpoint is also suspect if all steps since the last save were skipped."""

    load_step: int = -1
    """Step to resume from; -1: the newest. The run stops if that step has no checkpoint."""

    initial_load_path: str = ""
    """Checkpoint folder (.../step-N, also s3://bucket/prefix/step-N) whose weights a run without checkpoints of its own
    starts from."""

    create_seed_checkpoint: bool = False
    """Save randomly initialized weights as step 0 and stop; runs in one process."""


UploadKind = Literal["full", "model", "hf"]


@dataclass(frozen=True, kw_only=True)
class UploadConfig:
    """Background upload of checkpoints to object storage ([storage] has its settings), and resuming from there on a new
    machine."""

    to: str = ""
    """s3://bucket/prefix of this run alone; empty: no upload. A run whose own folder has no newer checkpoint resumes
    from the newest complete one there."""

    kinds: tuple[UploadKind, ...] = ("full", "model", "hf")
    """What is uploaded: full checkpoints (full), checkpoints of weights only (model), milestones as Hugging Face model
    folders (hf)."""

    keep: Literal["policy", "all"] = "policy"
    """Remote retention. policy: checkpoints that [checkpoint] deletes from the run folder are deleted there too; all:
    no remote checkpoint is deleted, and local ones are kept until they are uploaded, as long as the disk has space
    for two more."""

    part_mb: Annotated[float, Bounds(at_least=5.3, at_most=5000)] = 16.0
    """Part size of a multipart upload (1 MB = 1e6 bytes); at least 5.3."""

    num_connections: Annotated[int, Bounds(at_least=1, at_most=256)] = 4
    """Concurrent requests per node; an upload uses about part_mb of memory for each."""

    bandwidth_mb_per_sec: Annotated[float, Bounds(at_least=0)] = 0.0
    """Maximum average upload bandwidth per node; 0: no limit."""

    finish_sec: Annotated[float, Bounds(at_least=0)] = 3600.0
    """Seconds that a finished run waits for its uploads to complete."""

    stop_sec: Annotated[float, Bounds(at_least=0)] = 30.0
    """The same for a run that was stopped by a signal or a rollback and will be started again."""


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """Fault handling: non-finite steps, loss spikes, signals."""

    max_skipped_steps: Annotated[int, Bounds(at_least=0)] = 10
    """A step with a non-finite loss or gradient is skipped: its data is not read again, weights and optimizer state do
    not change. The run stops after more than this many among the last skip_window_steps."""

    skip_window_steps: Annotated[int, Bounds(at_least=1)] = 100
    """Window of max_skipped_steps, in steps."""

    spike_z: Annotated[float, Bounds(at_least=0)] = 8.0
    """Robust z-score, against the median of the last spike_window_steps, above which a loss is a spike; 0: no spike
    detection. Warmup steps are ignored."""

    spike_window_steps: Annotated[int, Bounds(at_least=10)] = 100
    """Window of spike_z, in steps; no loss is a spike before it is full."""

    on_spike: Literal["warn", "rollback"] = "warn"
    """warn: log and continue; rollback: return to the last checkpoint before the spike_skip_steps steps that end with
    the spike, and skip their data. For a rollback the run exits with code 75 and has to be started again."""

    spike_skip_steps: Annotated[int, Bounds(at_least=1)] = 10
    """Steps whose data a rollback skips, the last of them the spike."""

    max_rollbacks: Annotated[int, Bounds(at_least=0)] = 3
    """Rollbacks per run; the next spike stops it."""

    max_breaches: Annotated[int, Bounds(at_least=0)] = 0
    """Breaches (preference.max_drift, generation_check.stop and stop_below) after which the run goes back to the last
    checkpoint within the bounds, or to its start, and continues with half the learning rate. For that it exits with
    code 75 and has to be started again; the next breach stops it (code 3)."""

    stop_within_sec: Annotated[float, Bounds(above=0)] = 120.0
    """Time limit of a graceful stop: after Ctrl-C, SIGTERM or SIGUSR1 all ranks save at the next step boundary and exit
    with code 75; a rank that is not done by then exits without saving. torchrun itself waits only for
    --shutdown-timeout (default 30 s)."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Logging backends. metrics.jsonl in the run folder is always written."""

    log_every_steps: Annotated[int, Bounds(at_least=1)] = 10
    """Logging interval in steps."""

    group_table_every: Annotated[int, Bounds(at_least=0)] = 10
    """Log steps between tables of the losses by group (language, task, source, kind of token) on the console; 0: only
    at the end. metrics.jsonl has them at every log step."""

    tensorboard: bool = False
    """Write TensorBoard events, to tb in the run folder."""

    wandb: bool = False
    """Log to Weights & Biases: one run of theirs over all restarts. Its own variables say where (WANDB_API_KEY,
    WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline); without a network or a key it logs offline."""

    wandb_tags: tuple[str, ...] = ()
    """Tags of that run."""

    prometheus: str = ""
    """host:port at which the first rank of each node serves metrics for Prometheus, such as 127.0.0.1:9464, or
    0.0.0.0:9464 for a Prometheus on another machine (there is no access control); empty: no endpoint."""

    tensor_norms_every_steps: Annotated[int, Bounds(at_least=0)] = 0
    """Interval in steps of norms of weights, gradients, updates and activations by layer and by old and new vocabulary
    rows. Such a step holds a copy of this rank's weights and waits for the device; 0: none."""

    tensor_norms_at_steps: tuple[int, ...] = ()
    """Steps, counted from 1, at which these norms are measured as well."""


@dataclass(frozen=True, kw_only=True)
class ProfilerConfig:
    """Spans of every step on every rank, and profiler traces of rank 0 in profiling/traces of the run folder."""

    spans: bool = True
    """Record when each rank fetched batches, computed, validated, generated, saved and uploaded, in spans of the run
    folder: about 1 kB per step, at most 64 MiB per rank. `titan-speech report RUN --trace FILE` draws them."""

    enable: bool = False
    """Write traces."""

    first_steps: Annotated[int, Bounds(at_least=0)] = 2
    """Steps in the first trace, from the start of the process; 0: no first trace."""

    steady_from: Annotated[int, Bounds(at_least=1)] = 20
    """Steps before the second trace (steady state) begins."""

    steady_steps: Annotated[int, Bounds(at_least=0)] = 3
    """Steps in the second trace; 0: no second trace."""
