"""A collective that does not come back: one report for all ranks, then every rank ends.

In: an error of a collective, or a part of a step that takes as long as collectives may. Out: a report by one rank, to
stderr and RUN/health/hang.txt: who waited where and how long, and what became of the ranks it waited for. The others
say one line. There is nothing to save or to close: a process with a broken collective leaves at once, and torchrun
ends the others and, with --max-restarts, starts anew from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from titan_speech.health.batch import FOLDER
from titan_speech.health.exits import EXIT_HUNG
from titan_speech.health.progress import BEAT_SEC, Mark, Progress

MAX_LINES = 8
OVERDUE = 0.9
"""Of the time a collective may take: reported before it is over, since NCCL's watchdog then ends the process itself."""

SILENT_BEATS = 2
"""Beats a rank may be behind the one that reports before it is called silent."""


def is_of_a_collective(error: BaseException) -> bool:
    """Whether another rank did not do its part; gloo says so in a plain RuntimeError."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


class HangReport:
    """What is said and where, once a run."""

    def __init__(self, run_folder: Path, slots_of_step: Callable[[int], range]) -> None:
        self.run_folder, self.slots_of_step = run_folder, slots_of_step
        self.progress = Progress(self._overdue)

    def begin(self, timeout_sec: float) -> None:
        """Before the first step, for which collectives may take `timeout_sec`."""
        self.progress.limit_sec = OVERDUE * timeout_sec
        self.progress.begin()

    def step_ended(self, timeout_sec: float) -> None:
        """At each step's end; `timeout_sec` is what collectives may take from here on."""
        self.progress.limit_sec = OVERDUE * timeout_sec
        self.progress.mark(self.progress.mine.step)

    def leave(self, error: BaseException) -> None:
        """End this process for an error of a collective."""
        mine = self.progress.mine
        said = str(error).strip().splitlines()[0]
        print(f"titan_speech: rank {self.progress.rank} ends: {said[-300:]}", file=sys.stderr, flush=True)
        self._report(mine, f"the collective failed: {said}", "hangs" if "imed out" in said else "lost a rank")
        os._exit(EXIT_HUNG)

    def _overdue(self, for_sec: float) -> None:
        self._report(
            self.progress.mine, f"{for_sec:.0f} s without an answer, and collectives end the run soon", "hangs"
        )

    def _report(self, mine: Mark, reason: str, what: str) -> None:
        try:
            if not self.progress.is_first("hang"):
                return
            lines = hang_lines(self.progress.rank, mine, self.progress.marks())
        except Exception as error:  # the store is gone, and with it what the others did
            lines = [f"nothing is known of the others: {type(error).__name__}"]
        slots = self.slots_of_step(mine.step)
        text = (
            f"titan_speech: the run {what}. Rank {self.progress.rank} waited {mine.for_sec:.0f} s in step {mine.step} "
            f"(slots {slots.start}-{slots.stop - 1}), {mine.part}; {reason}\n"
            + "\n".join(f"  {line}" for line in lines)
        )
        print(text, file=sys.stderr, flush=True)
        path = self.run_folder / FOLDER / "hang.txt"
        with contextlib.suppress(OSError):  # a full disk; it was said
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")


def hang_lines(rank: int, mine: Mark, marks: list[Mark | None]) -> list[str]:
    """A line for each rank that others may have waited for: silent ones first, then those furthest behind."""
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
    return lines or ["all other ranks answer, and stand where this one does"]


def _silent(rank: int, mark: Mark | None, mine: Mark) -> str:
    if mark is None:
        return f"rank {rank}: was never heard of"
    quiet_sec = (mine.beats - mark.beats) * BEAT_SEC
    return f"rank {rank}: silent for about {quiet_sec:.0f} s; last heard of in step {mark.step}, {mark.part}"
