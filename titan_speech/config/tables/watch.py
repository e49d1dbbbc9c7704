"""What is watched and told of a run: its health, figures, profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class HealthTable:
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
class MetricsTable:
    """Where figures go. metrics.jsonl in the run folder is always written."""

    log_every_steps: int = 10
    """Steps between two log lines."""

    tensorboard: bool = False
    """Write TensorBoard events."""

    wandb: bool = False
    """Send to Weights & Biases (WANDB_MODE=offline is respected)."""


@dataclass(frozen=True, kw_only=True)
class ProfilerTable:
    """Traces of rank 0, in profiling/traces of the run folder: what the time of a step goes to."""

    enable: bool = False
    """Write them."""

    first_steps: int = 2
    """Steps from the start of the process on that are in the first trace; 0: none."""

    steady_from: int = 20
    """Steps that pass before the second trace begins."""

    steady_steps: int = 3
    """Steps in the second trace; 0: none."""
