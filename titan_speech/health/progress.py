"""What each rank is doing, told to all others through the process group's store.

In: marks of the trainer (which part of which step begins). Out: a beat of each rank every two seconds, its mark and
how long ago that was. A thread beats, so a rank that is stuck goes on telling where, and one that is stopped or gone
falls silent. Beats are counted, not dated: no clock is compared with another. The cost is one small message to the
store every two seconds a rank.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch.distributed.distributed_c10d import _get_default_store

BEAT_SEC = 2.0
BOUNDARY = "step boundary"


@dataclass(frozen=True)
class Mark:
    """Where a rank is."""

    step: int = 0
    part: str = BOUNDARY
    for_sec: float = 0.0
    beats: int = 0


class Progress:
    """Marks of this rank, and beats of all."""

    def __init__(self, on_overdue: Callable[[float], None]) -> None:
        """`on_overdue` is called once, in the thread, when a part of a step takes longer than `limit_sec`."""
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.limit_sec = float("inf")
        self._mark, self._since, self._beats = Mark(), time.monotonic(), 0
        self._on_overdue: Callable[[float], None] | None = on_overdue
        self._ended = threading.Event()

    def begin(self) -> None:
        """Beat from now on; every rank at about the same time. A world of one, or of simulated ranks, has no others."""
        if self.world_size == 1 or torch.distributed.get_backend() == "fake":
            return
        self._store = _get_default_store().clone()
        threading.Thread(target=self._run, name="beats", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def mark(self, step: int, part: str = BOUNDARY) -> None:
        self._mark, self._since = Mark(step, part), time.monotonic()

    @property
    def mine(self) -> Mark:
        return replace(self._mark, for_sec=time.monotonic() - self._since, beats=self._beats)

    def marks(self) -> list[Mark | None]:
        """The last beat of every rank; None where there was none. Raises where the store is gone."""
        keys = [_key(rank) for rank in range(self.world_size)]
        there = [key if self._store.check([key]) else None for key in keys]
        return [None if key is None else Mark(**json.loads(self._store.get(key))) for key in there]

    def is_first(self, what: str) -> bool:
        """True for one rank of all that ask."""
        return self._store.add(f"titan_speech/{what}", 1) == 1

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SEC):
            self._beats += 1
            try:
                self._store.set(_key(self.rank), json.dumps(asdict(self.mine)))
            except Exception:  # the store went with another process; what is wrong shows in the main thread
                return
            mine = self.mine
            if mine.part != BOUNDARY and mine.for_sec > self.limit_sec and self._on_overdue is not None:
                overdue, self._on_overdue = self._on_overdue, None
                overdue(mine.for_sec)


def _key(rank: int) -> str:
    return f"titan_speech/beat/{rank}"
