"""What a run is called, and what it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class JobTable:
    """What the run is called and where it writes."""

    description: str = ""
    """One line that says what this run is; saved with it."""

    dump_folder: str = "outputs/run"
    """Run folder, relative to the working directory: checkpoints, metrics.jsonl, resolved configuration."""

    seed: int = 0
    """Seed of the weight initialisation (data order has its own: data.seed)."""


@dataclass(frozen=True, kw_only=True)
class StageTable:
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
class CommTable:
    """Time limits of collectives."""

    init_timeout_seconds: int = 300
    """Limit during start-up and the first step."""

    train_timeout_seconds: int = 100
    """Limit afterwards."""


@dataclass(frozen=True, kw_only=True)
class DebugTable:
    """Switches for finding faults."""

    deterministic: bool = False
    """Use deterministic kernels."""
