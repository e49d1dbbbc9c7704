"""Tells the loss of another rank from every other error.

In: an exception. Out: whether a collective or the store of the process group failed, which says nothing of the data or
the checkpoint that was being read: another rank died, stopped, or cannot be reached.
"""

from __future__ import annotations

import re
import sys


def is_of_a_collective(error: BaseException) -> bool:
    """Whether an error is one of a collective or of the store; gloo raises a plain RuntimeError.

    torch wraps what happened on each rank while a checkpoint is read or written: one such error among them is enough,
    since what the others then report follows from it.
    """
    if "torch.distributed" not in sys.modules:  # then nothing of torch can have raised it
        return False
    import torch

    if "torch.distributed.checkpoint" in sys.modules:
        from torch.distributed.checkpoint.api import CheckpointException

        if isinstance(error, CheckpointException):
            return any(is_of_a_collective(cause) for cause, _ in error.failures.values())
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def first_line(error: BaseException) -> str:
    """What happened, without gloo's file names and advice and the C++ stack that torch appends."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[\S+\.cc:\d+\] ", "", line).split(" This is typically caused by")[0][:300]
