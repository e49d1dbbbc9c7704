"""Which checkpoints retention leaves until they are at the address.

In: what the uploader says of itself, and the [upload] table. Out: their steps. With upload.keep = "all" a checkpoint
that was never sent would be missing there for ever, so it waits here. With "policy" none does: what the policy removes
here it would remove there at once, and storage that is slower than the run saves is not to fill the disk with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from titan_speech.checkpoint.commit import Kind
from titan_speech.checkpoint.upload.status import read_status, status_path
from titan_speech.config.tables import UploadTable


def waiting_steps(run: Path, upload: UploadTable, kinds: Mapping[int, Kind]) -> frozenset[int]:
    """Of the checkpoints in `kinds`, by step; what the uploader has not seen yet waits too."""
    if not upload.to or upload.keep == "policy":
        return frozenset()
    status = read_status(status_path(run))
    is_there = set(status.complete) - set(status.waiting) if status else set()
    return frozenset(step for step, kind in kinds.items() if kind in upload.kinds and f"step-{step}" not in is_there)
