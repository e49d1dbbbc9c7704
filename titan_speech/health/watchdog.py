"""Hang detection: heartbeats of all ranks, and one report of a rank that is lost or does not answer.

In: marks of the trainer (which part of which step begins); an error of a collective, a part of a step that takes as
long as collectives may, or a rank that is silent for so long while this one waits for a load or a save.
Out: a heartbeat of each rank every two seconds through the process group's store, with its mark and how long ago that
was; and a report by one rank, to stderr and RUN/health/hang.txt: which rank waited where and how long, and the state of
the ranks it waited for. The others print one line. A thread sends heartbeats, so a rank that is stuck still reports
where, and one that is stopped or gone falls silent. Heartbeats are counted, not dated: no clock is compared with
another. The cost is two small messages per rank every two seconds.

There is nothing to save or close: a process with a broken collective exits with EXIT_HUNG as soon as the report is
written, and so does, within two heartbeats, every rank that has noticed nothing yet. torchrun ends what is left and,
with --max-restarts, restarts from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed.distributed_c10d import _get_default_store

from titan_speech.distributed.last_words import first_line
from titan_speech.exit_codes import EXIT_HUNG
from titan_speech.health.monitor import HEALTH_DIR
from titan_speech.utils import printable
from titan_speech.utils.progress import print_to_stderr

BEAT_SEC = 2.0
BOUNDARY = "step boundary"

_FIRST, _REPORTED = "titan_speech/hang", "titan_speech/hang-reported"


@dataclass(frozen=True)
class RankMark:
    """Where a rank is in its step."""

    step: int = 0
    """0: before the first step."""
    part: str = BOUNDARY
    for_sec: float = 0.0
    beats: int = 0
    is_leaving: bool = False
    """A collective of this rank failed, so it exits by itself: not the rank that others wait for."""


class Heartbeat:
    """Marks of this rank, and heartbeats of all ranks."""

    def __init__(
        self,
        on_overdue: Callable[[float], None],
        on_silent: Callable[[TimeoutError], None],
        on_reported: Callable[[str], None],
    ) -> None:
        """Args:
        on_overdue: called once, in the thread, when a part of a step takes longer than `limit_sec`.
        on_silent: called in the thread when this rank waits elsewhere, as for a save, and another one is silent for
            longer than that.
        on_reported: called in the thread when another rank has reported, or rank 0, which has the store, is gone.
        """
        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.limit_sec = float("inf")
        self._mark, self._since, self._beats = RankMark(), time.monotonic(), 0
        self._on_overdue: Callable[[float], None] | None = on_overdue
        self._on_silent, self._on_reported = on_silent, on_reported
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
        self._mark, self._since = RankMark(step, part), time.monotonic()

    @property
    def mine(self) -> RankMark:
        return replace(self._mark, for_sec=time.monotonic() - self._since, beats=self._beats)

    def marks(self) -> list[RankMark | None]:
        """The last heartbeat of every rank, None for a rank without one. Raises if the store is gone."""
        keys = [_key(rank) for rank in range(self.world_size)]
        there = [key if self._store.check([key]) else None for key in keys]
        return [None if key is None else RankMark(**json.loads(self._store.get(key))) for key in there]

    def leave(self) -> bool:
        """Announce that this rank exits by itself; True for the first of all ranks, which reports.

        Raises: the store is gone.
        """
        self._mark = replace(self._mark, is_leaving=True)
        self._send()
        return self.is_first()

    def is_first(self) -> bool:
        """True for exactly one of all ranks that ask: the one that reports."""
        return self._store.add(_FIRST, 1) == 1

    def set_reported(self) -> None:
        """Let the other ranks leave: the report is written, which may have needed the store of rank 0."""
        self._store.set(_REPORTED, str(self.rank))

    def wait_until_reported(self) -> None:
        self._store.wait([_REPORTED], timedelta(seconds=REPORT_SEC))

    def _send(self) -> None:
        self._store.set(_key(self.rank), json.dumps(asdict(self.mine)))

    def _run(self) -> None:
        while True:
            try:
                self._send()
                reporter = self._store.get(_REPORTED).decode() if self._store.check([_REPORTED]) else ""
            except Exception as error:  # the store is gone with rank 0
                reporter = f"0, whose store of heartbeats is gone ({type(error).__name__})"
            if reporter:
                if not self._ended.wait(BEAT_SEC):  # else the main thread has met the same, or is through
                    self._on_reported(reporter)
                return
            if self.mine.for_sec > self.limit_sec:
                self._check(self.mine)
            if self._ended.wait(BEAT_SEC):
                return
            self._beats += 1

    def _check(self, mine: RankMark) -> None:
        """A part of a step has a limit; a load or a save may take longer, while every rank sends heartbeats."""
        if mine.step and mine.part != BOUNDARY:
            if self._on_overdue is not None:
                overdue, self._on_overdue = self._on_overdue, None
                overdue(mine.for_sec)
            return
        with contextlib.suppress(torch.distributed.DistError):  # the store is gone, which the next heartbeat finds
            for rank, mark in enumerate(self.marks()):
                silent_sec = (mine.beats - (mark.beats if mark is not None else 0)) * BEAT_SEC
                if silent_sec > self.limit_sec and not (mark is not None and mark.is_leaving):
                    self._on_silent(TimeoutError(f"timed out: no heartbeat of rank {rank} for {silent_sec:.0f} s"))


def _key(rank: int) -> str:
    return f"titan_speech/beat/{rank}"


MAX_LINES = 8
OVERDUE = 0.9
"""Fraction of the time a collective may take: reported before NCCL's watchdog ends the process itself."""

SILENT_BEATS = 2
"""Heartbeats a rank may be behind the one that reports before it is called silent."""

LOOK_AGAIN_SEC = 1.5 * BEAT_SEC
"""After a lost connection: a rank that has sent no heartbeat in this time is silent."""

REPORT_SEC = 4 * BEAT_SEC
"""A rank whose collective failed waits so long for the report of another one before it exits."""


class HangReport:
    """Reports a hang, once per run."""

    def __init__(self, run_folder: Path, slots_of_step: Callable[[int], range]) -> None:
        self.run_folder, self.slots_of_step = run_folder, slots_of_step
        self.heartbeat = Heartbeat(self._overdue, self.exit, self._leave_after_report)

    def begin(self, timeout_sec: float, part: str) -> None:
        """Before the first step, for which collectives may take `timeout_sec`; `part` is what comes before it."""
        self.heartbeat.limit_sec = OVERDUE * timeout_sec
        self.heartbeat.mark(0, part)
        self.heartbeat.begin()

    def step_ended(self, timeout_sec: float) -> None:
        """At each step's end; `timeout_sec` is what collectives may take from here on."""
        self.heartbeat.limit_sec = OVERDUE * timeout_sec
        self.heartbeat.mark(self.heartbeat.mine.step)

    def exit(self, error: BaseException) -> None:
        """Report and end this process, for an error of a collective or a rank that is silent."""
        beat, mine, message = self.heartbeat, self.heartbeat.mine, first_line(error)
        reason = message if isinstance(error, TimeoutError) else f"the collective failed: {message}"
        _print(beat.rank, f"exits: {message}")
        try:
            if beat.leave():
                self._report(mine, reason, "hangs" if "imed out" in message else LOST)
                beat.set_reported()
                if beat.rank == 0:  # which hosts the store: the others read there that they may leave
                    time.sleep(1.25 * BEAT_SEC)
            else:
                beat.wait_until_reported()
        except Exception as gone:
            if beat.rank == 1:  # without the store no rank knows who reports
                lines = [f"rank 0: gone, and with it the heartbeats of all ranks ({type(gone).__name__})"]
                self._write(mine, reason, LOST, lines)
        os._exit(EXIT_HUNG)

    def _leave_after_report(self, reporter: str) -> None:
        """In the thread: the main thread may wait for a rank that is lost until its own limit, or for data."""
        mine = self.heartbeat.mine
        _print(self.heartbeat.rank, f"exits at {_place(mine)}: the run has lost a rank, says rank {reporter}")
        os._exit(EXIT_HUNG)

    def _overdue(self, for_sec: float) -> None:
        with contextlib.suppress(Exception):  # the store is gone, which the next heartbeat finds
            if self.heartbeat.is_first():
                reason = f"{for_sec:.0f} s without an answer, and collectives end the run soon"
                self._report(self.heartbeat.mine, reason, "hangs")

    def _report(self, mine: RankMark, reason: str, what: str) -> None:
        earlier = None
        if what == LOST:  # a rank that was just killed was not silent before
            earlier = self.heartbeat.marks()
            time.sleep(LOOK_AGAIN_SEC)
        now = replace(mine, beats=self.heartbeat.mine.beats)
        self._write(mine, reason, what, hang_lines(self.heartbeat.rank, now, self.heartbeat.marks(), earlier))

    def _write(self, mine: RankMark, reason: str, what: str, lines: list[str]) -> None:
        text = printable.message(  # the reason is torch's, and may quote what a peer sent
            f"titan_speech: the run {what}. Rank {self.heartbeat.rank} waited {mine.for_sec:.0f} s "
            f"{_place(mine, self.slots_of_step)}; {reason}\n" + "\n".join(f"  {line}" for line in lines)
        )
        print_to_stderr(text)
        path = self.run_folder / HEALTH_DIR / "hang.txt"
        with contextlib.suppress(OSError):  # a full disk; it was printed
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")


LOST = "lost a rank"


def _place(mark: RankMark, slots_of_step: Callable[[int], range] | None = None) -> str:
    if not mark.step:
        return f"before the first step, {mark.part}"
    slots = slots_of_step(mark.step) if slots_of_step is not None else None
    of_slots = f" (slots {slots.start}-{slots.stop - 1})" if slots is not None else ""
    return f"in step {mark.step}{of_slots}, {mark.part}"


def _print(rank: int, message: str) -> None:
    print_to_stderr(f"titan_speech: rank {rank} {message}")


def hang_lines(
    rank: int, mine: RankMark, marks: list[RankMark | None], earlier: list[RankMark | None] | None = None
) -> list[str]:
    """One line per rank that others may have waited for: silent ranks first, then those furthest behind.

    Args:
        rank: the rank that reports.
        mine: its mark.
        marks: the last heartbeat of every rank.
        earlier: the same `LOOK_AGAIN_SEC` before; a rank without a new one since then is silent.
    """
    silent, behind = [], []
    for other, mark in enumerate(marks):
        if other == rank:
            continue
        is_quiet = earlier is not None and mark is not None and earlier[other] == mark
        if mark is None or mine.beats - mark.beats >= SILENT_BEATS or is_quiet:
            if mark is None or not mark.is_leaving:
                silent.append((other, mark))
        elif not mark.is_leaving and (mark.step < mine.step or mark.part != mine.part):
            behind.append((other, mark))
    lines = [_silent(other, mark, mine) for other, mark in silent]
    behind.sort(key=lambda item: (item[1].step, -item[1].for_sec))
    lines += [f"rank {other}: {_place(mark)}, for {mark.for_sec:.0f} s" for other, mark in behind]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES} more ranks"]
    return lines or ["all other ranks answer, and are where this one is"]


def _silent(rank: int, mark: RankMark | None, mine: RankMark) -> str:
    if mark is None:
        return f"rank {rank}: never sent a heartbeat"
    quiet_sec = (mine.beats - mark.beats) * BEAT_SEC
    return f"rank {rank}: silent for about {quiet_sec:.0f} s; last heartbeat {_place(mark)}"
