"""What stays at the address.

In: what is complete there, the run's policy and its pins. Out: names of checkpoints that were removed. The policy is
that of the run's own folder ([checkpoint] keep_last_full, keep_last_model_only, milestones, pins); what became weights
only here is sent again as such, so an address holds what a folder would. Of checkpoints that only the address has,
those the policy would reduce to weights stay whole until it removes them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from titan_speech.checkpoint.pins import pinned_steps
from titan_speech.checkpoint.retention import Kept, removal
from titan_speech.checkpoint.upload.job import UploadJob
from titan_speech.checkpoint.upload.local import local_checkpoints
from titan_speech.checkpoint.upload.manifest import SentCheckpoint
from titan_speech.checkpoint.upload.prefix import Prefix


def remove_unkept(prefix: Prefix, sent: Collection[SentCheckpoint], job: UploadJob) -> list[str]:
    """Names of what is there no more."""
    newest = newest_step(job.checkpoints)
    pinned = pinned_steps(job.checkpoints)
    ours = {one.step: one for one in sent if one.name == f"step-{one.step}" and one.step <= newest}
    kept = [
        Kept(one.step, "full" if one.kind == "full" else "model", True, one.step in pinned) for one in ours.values()
    ]
    names = [ours[step].name for step in removal(kept, job.policy).delete]
    for name in names:
        prefix.remove(name)
    return names


def newest_step(folder: Path) -> int:
    """Of what was written last here; newer ones at the address are of a branch that was left, and count for nothing."""
    found = local_checkpoints(folder, ("full", "model"))
    return max(found, key=lambda one: one.written_unix_sec).step if found else -1
