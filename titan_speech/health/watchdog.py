"""Hang detection: heartbeats of all ranks, and one report of a collective that does not return.

In: marks of the trainer (which part of which step begins); an error of a collective, or a part of a step that takes as
long as collectives may.
Out: a heartbeat of each rank every two seconds through the process group's store, with its mark and how long ago that
was; and a report by one rank, to stderr and RUN/health/hang.txt: which rank waited where and how long, and the state of
the ranks it waited for. The others print one line. A thread sends heartbeats, so a rank that is stuck still reports
where, and one that is stopped or gone falls silent. Heartbeats are counted, not dated: no clock is compared with
another. The cost is one small message per rank every two seconds.

There is nothing to save or close: a process with a broken collective exits at once, and torchrun ends the others and,
with --max-restarts, restarts from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.distributed.distributed_c10d import _get_default_store

from titan_speech.health.monitor import HEALTH_DIR
from titan_speech.health.signals import EXIT_HUNG

BEAT_SEC = 2.0
BOUNDARY = "step boundary"


@dataclass(frozen=True)
class Mark:
    """Where a rank is in its step."""

    step: int = 0
    part: str = BOUNDARY
    for_sec: float = 0.0
    beats: int = 0


class Heartbeat:
    """Marks of this rank, and heartbeats of all ranks."""

    def __init__(self, on_overdue: Callable[[float], None]) -> None:
        """`on_overdue` is called once, in the thread, when a part of a step takes longer than `limit_sec`."""
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.limit_sec = float("inf")
        self._mark, self._since, self._beats = Mark(), time.monotonic(), 0
        self._on_overdue: Callable[[float], None] | None = on_overdue
        self._ended = threading.Event()

    def begin(self) -> None:
        """Start the heartbeat; every rank at about the same time. Not in a world of one, or of simulated ranks."""
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
        """The last heartbeat of every rank, None for a rank without one. Raises if the store is gone."""
        keys = [_key(rank) for rank in range(self.world_size)]
        there = [key if self._store.check([key]) else None for key in keys]
        return [None if key is None else Mark(**json.loads(self._store.get(key))) for key in there]

    def is_first(self, what: str) -> bool:
        """True for exactly one of all ranks that ask."""
        return self._store.add(f"titan_speech/{what}", 1) == 1

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SEC):
            self._beats += 1
            try:
                self._store.set(_key(self.rank), json.dumps(asdict(self.mine)))
            except Exception:  # the store is gone with another process; the main thread sees the error
                return
            mine = self.mine
            if mine.part != BOUNDARY and mine.for_sec > self.limit_sec and self._on_overdue is not None:
                overdue, self._on_overdue = self._on_overdue, None
                overdue(mine.for_sec)


def _key(rank: int) -> str:
    return f"titan_speech/beat/{rank}"


MAX_LINES = 8
OVERDUE = 0.9
"""Fraction of the time a collective may take: reported before NCCL's watchdog ends the process itself."""

SILENT_BEATS = 2
"""Heartbeats a rank may be behind the one that reports before it is called silent."""


def is_of_a_collective(error: BaseException) -> bool:
    """Whether an error is one of a collective; gloo raises a plain RuntimeError."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class HangReport:
    """Reports a hang, once per run."""

    def __init__(self, run_folder: Path, slots_of_step: Callable[[int], range]) -> None:
        self.run_folder, self.slots_of_step = run_folder, slots_of_step
        self.heartbeat = Heartbeat(self._overdue)

    def begin(self, timeout_sec: float) -> None:
        """Before the first step, for which collectives may take `timeout_sec`."""
        self.heartbeat.limit_sec = OVERDUE * timeout_sec
        self.heartbeat.begin()

    def step_ended(self, timeout_sec: float) -> None:
        """At each step's end; `timeout_sec` is what collectives may take from here on."""
        self.heartbeat.limit_sec = OVERDUE * timeout_sec
        self.heartbeat.mark(self.heartbeat.mine.step)

    def exit(self, error: BaseException) -> None:
        """Report and end this process, for an error of a collective."""
        mine = self.heartbeat.mine
        message = str(error).strip().splitlines()[0]
        print(f"titan_speech: rank {self.heartbeat.rank} exits: {message[-300:]}", file=sys.stderr, flush=True)
        self._report(mine, f"the collective failed: {message}", "hangs" if "imed out" in message else "lost a rank")
        os._exit(EXIT_HUNG)

    def _overdue(self, for_sec: float) -> None:
        self._report(
            self.heartbeat.mine, f"{for_sec:.0f} s without an answer, and collectives end the run soon", "hangs"
        )

    def _report(self, mine: Mark, reason: str, what: str) -> None:
        try:
            if not self.heartbeat.is_first("hang"):
                return
            lines = hang_lines(self.heartbeat.rank, mine, self.heartbeat.marks())
        except Exception as error:  # the store is gone, and with it the state of the others
            lines = [f"nothing is known of the others: {type(error).__name__}"]
        slots = self.slots_of_step(mine.step)
        text = (
            f"titan_speech: the run {what}. Rank {self.heartbeat.rank} waited {mine.for_sec:.0f} s in step {mine.step} "
            f"(slots {slots.start}-{slots.stop - 1}), {mine.part}; {reason}\n"
            + "\n".join(f"  {line}" for line in lines)
        )
        print(text, file=sys.stderr, flush=True)
        path = self.run_folder / HEALTH_DIR / "hang.txt"
        with contextlib.suppress(OSError):  # a full disk; it was printed
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")


def hang_lines(rank: int, mine: Mark, marks: list[Mark | None]) -> list[str]:
    """One line per rank that others may have waited for: silent ranks first, then those furthest behind."""
    silent, behind = [], []
    for other, mark in enumerate(marks):
        if other == rank:
            continue
        if mark is None or mine.beats - mark.beats >= SILENT_BEATS:
            silent.append((other, mark))
        elif mark.step < mine.step or mark.part != mine.part:
            behind.append((other, mark))
    lines = [_silent(other, mark, mine) for other, mark in silent]
    behind.sort(key=lambda item: (item[1].step, -item[1].for_sec))
    lines += [f"rank {other}: in step {mark.step}, {mark.part}, for {mark.for_sec:.0f} s" for other, mark in behind]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES} more ranks"]
    return lines or ["all other ranks answer, and are where this one is"]


def _silent(rank: int, mark: Mark | None, mine: Mark) -> str:
    if mark is None:
        return f"rank {rank}: never sent a heartbeat"
    quiet_sec = (mine.beats - mark.beats) * BEAT_SEC
    return f"rank {rank}: silent for about {quiet_sec:.0f} s; last heartbeat in step {mark.step}, {mark.part}"
