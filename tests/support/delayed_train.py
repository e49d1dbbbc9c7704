"""The training entry with a delay planted on one rank: DELAY="place:rank:seconds", as "collate:1:3" or "save-5:0:5".

Places: collate (the first batch), save-N (in the save at step N, while training waits for it).
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import torch

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

from titan_speech.checkpoint.saver import SaveJob, Saver
from titan_speech.data import loader
from titan_speech.train import main

PLACE, RANK, SECONDS = os.environ["DELAY"].split(":")
as_batch, start = loader.as_batch, Saver.start
delayed: list[str] = []


def delay(place: str) -> None:
    if place == PLACE and os.environ["RANK"] == RANK and place not in delayed:
        delayed.append(place)
        time.sleep(float(SECONDS))


def delayed_batch(*args: Any) -> Any:
    delay("collate")
    return as_batch(*args)


def delayed_start(self: Saver, state: dict[str, Any], job: SaveJob, *, wait: bool) -> None:
    delay(f"save-{job.step}")
    start(self, state, job, wait=wait)


loader.as_batch = delayed_batch
Saver.start = delayed_start  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
