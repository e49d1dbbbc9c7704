"""The training entry with a rank that dies or stops at one place: FAULT="place:rank:signal", as "load:1:KILL".

Places: groups (the others wait for this rank to make a process group), init (the trainer is half built), load (before a
checkpoint is read), read (one of its tensors has been read, and others have not), step-N (in the middle of step N),
boundary-N (before the agreement after step N).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

from titan_speech import trainer
from titan_speech.checkpoint import manager
from titan_speech.checkpoint.dcp_reader import PlainLoadPlanner
from titan_speech.checkpoint.manager import SpeechCheckpointManager
from titan_speech.train import main
from titan_speech.trainer import SpeechTrainer

now = {"step": 0}
PLACE, RANK, SIGNAL = os.environ["FAULT"].split(":")


def struck(function: Callable[..., Any], place_of: Callable[[Any], str]) -> Callable[..., Any]:
    """`function`, before which this process gets its signal if it is at the place."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if isinstance(args[0] if args else None, SpeechTrainer):
            now["step"] = args[0].step
        if place_of(args[0] if args else None) == PLACE and os.environ["RANK"] == RANK:
            print(f"rank {RANK} gets SIG{SIGNAL} at {PLACE}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.Signals[f"SIG{SIGNAL}"])
        return function(*args, **kwargs)

    return wrapped


manager.Agreement = struck(manager.Agreement, lambda _: "groups")
trainer.Rollbacks = struck(trainer.Rollbacks, lambda _: "init")
manager.load_into = struck(manager.load_into, lambda _: "load")
PlainLoadPlanner.commit_tensor = struck(PlainLoadPlanner.commit_tensor, lambda _: "read")  # type: ignore[method-assign]
SpeechTrainer.forward_backward_step = struck(  # type: ignore[method-assign]
    SpeechTrainer.forward_backward_step, lambda trainer: f"step-{trainer.step}"
)
SpeechCheckpointManager.save = struck(SpeechCheckpointManager.save, lambda manager: f"boundary-{now['step']}")

if __name__ == "__main__":
    sys.exit(main())
