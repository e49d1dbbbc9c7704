"""The training entry with faults: POISON="step:rank:kind,..." spoils that rank's batch of that step.

nan: its logits are NaN; huge: its loss is finite, the gradient overflows; high: the loss alone is raised by 20;
hang: the process stops (SIGSTOP) in the middle of the step.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

from titan_speech.train import main
from titan_speech.trainer import SpeechTrainer
from titan_speech.training.loss import GroupedCrossEntropy

FAULTS = {
    (int(step), int(rank)): kind
    for step, rank, kind in (fault.split(":") for fault in os.environ.get("POISON", "").split(",") if fault)
}
now = {"step": 0}
sound_step, sound_loss = SpeechTrainer.forward_backward_step, GroupedCrossEntropy.__call__


def step_of(self: SpeechTrainer, **batch: Any) -> torch.Tensor:
    now["step"] = self.step
    return sound_step(self, **batch)


def loss_of(self: GroupedCrossEntropy, pred: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    kind = FAULTS.get((now["step"], torch.distributed.get_rank()))
    if kind == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "nan":
        pred = pred * torch.nan
    loss, figures = sound_loss(self, pred, *args, **kwargs)
    if kind == "huge":
        loss = loss * 1e30
    return (loss + 20.0 if kind == "high" else loss), figures


SpeechTrainer.forward_backward_step = step_of  # type: ignore[method-assign]
GroupedCrossEntropy.__call__ = loss_of  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
