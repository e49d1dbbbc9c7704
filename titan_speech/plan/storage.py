"""How large checkpoints are, and what all that are kept take.

In: parameters, their type, the [checkpoint] table and the steps of the run. Out: `Storage`. A full checkpoint holds the
weights and two moments of AdamW of the same type; a few MB of metadata, loader state and provenance are not counted,
nor are saves that only checkpoint.at_least_every_minutes asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from titan_speech.checkpoint.cadence import is_due
from titan_speech.checkpoint.retention import Kept, RetentionPolicy, removal
from titan_speech.config.tables import SpeechConfig

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
