"""The account of a run: seconds by class over all processes, goodput, lost work, stragglers.

In: the records of all processes (records.py). Out: an `Account`. Rules for what no process knows of itself:

- Work is lost when a later start resumes from an earlier step: the seconds of the steps after it (step, data_wait,
  collective_wait) become lost_work. A span that contains the step it resumed from is split by its number of steps.
- The start-up of a process is restart unless it belongs to the first start of the run. So is the time since the last
  sign of life of its rank in the start before, or of that whole start if the rank is new. The time between a start that
  was stopped or completed in order and the next one belongs to nobody.
- What a process lived longer than its classes add up to is unclassified.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from titan_speech.ledger.records import (
    CLASSES,
    COLLECTIVE_WAIT,
    COMPLETE,
    DATA_WAIT,
    FAILED,
    KILLED,
    LOST_WORK,
    RESTART,
    SAVE_STALL,
    START,
    STEP,
    STOPPED,
    LedgerSpan,
    Process,
)

OF_STEPS = (STEP, DATA_WAIT, COLLECTIVE_WAIT)
OWN_PARTS = (STEP, DATA_WAIT, SAVE_STALL)
"""Parts of a step that a rank spends by itself, not waiting for another."""


@dataclass(frozen=True)
class Straggler:
    """One rank of one start against the median of its ranks."""

    rank: int
    node: str
    own_step_sec: float
    """Seconds per step of its own: waiting for other ranks is left out."""
    score: float
    """own_step_sec divided by the median of the ranks; 1.5 means that the others wait a third of the time."""
    excess_sec: dict[str, float]
    """Seconds per step above the median, by part: step, data_wait, save_stall."""


@dataclass(frozen=True)
class StartAccount:
    """One start of the run."""

    start: int
    world_size: int
    from_step: int
    last_step: int
    """The last step that any rank ended."""
    began_sec: float
    """Unix time."""
    ended_sec: float
    how: str
    """How it ended: complete, stopped, failed, or "" if one was killed or still runs; the worst of its processes."""
    lost_steps: int
    """Steps that a later start repeated."""
    seconds: dict[str, float]
    """Seconds by class, over its processes."""
    total_sec: float
    stragglers: tuple[Straggler, ...]
    """All ranks, the slowest first; empty before the first step."""


@dataclass(frozen=True)
class Account:
    """Where the time of a run went; seconds are those of all processes together."""

    seconds: dict[str, float]
    """All ten classes."""
    total_sec: float
    by_rank: dict[int, dict[str, float]]
    starts: tuple[StartAccount, ...]

    @property
    def unclassified_sec(self) -> float:
        """Seconds of no class; negative if clocks were set back."""
        return self.total_sec - sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """Share of all time that went into steps that were kept."""
        return self.seconds[STEP] / self.total_sec if self.total_sec > 0 else 0.0


def account(processes: Sequence[Process]) -> Account:
    """The account of a run.

    Args:
        processes: of `read_ledger`; of all nodes, where they do not share a file system.
    """
    numbers = sorted({process.start for process in processes})
    of_ranks: dict[int, list[Mapping[str, float]]] = defaultdict(list)
    starts = []
    for number in numbers:
        members = [process for process in processes if process.start == number]
        earlier = [process for process in processes if process.start < number]
        # the step up to which its work was kept: the earliest that a later start began at; None: all of it
        kept_until = min((process.from_step for process in processes if process.start > number), default=None)
        gaps = {process.rank: _gap(process, earlier) for process in members}
        own = {p.rank: _classes(p, gaps[p.rank], kept_until, is_first=not earlier) for p in members}
        for rank, seconds in own.items():
            of_ranks[rank].append(seconds)
        total_sec = sum(process.ended_sec - process.began_sec + gaps[process.rank] for process in members)
        starts.append(_start(members, _sums(own.values()), kept_until, total_sec))
    return Account(
        _sums(start.seconds for start in starts),
        sum(start.total_sec for start in starts),
        {rank: _sums(found) for rank, found in sorted(of_ranks.items())},
        tuple(starts),
    )


def _sums(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """All ten classes."""
    listed = list(parts)
    return {name: sum(part.get(name, 0.0) for part in listed) for name in CLASSES}


def _gap(process: Process, earlier: Sequence[Process]) -> float:
    """Seconds from the last sign of life before a process to its creation, unless the run had been asked to stop."""
    last_start = max((one.start for one in earlier), default=0)
    before = [one for one in earlier if one.start == last_start]
    before = [one for one in before if one.rank == process.rank] or before
    if all(one.how in (STOPPED, COMPLETE) for one in before):
        return 0.0
    return max(0.0, process.began_sec - max(one.ended_sec for one in before))


def _classes(process: Process, gap_sec: float, kept_until: int | None, *, is_first: bool) -> dict[str, float]:
    """Seconds of a process, and of the gap before it, by class."""
    found = dict.fromkeys(CLASSES, 0.0)
    for span in process.spans:
        lost = _lost_share(span, kept_until)
        for name, seconds in span.seconds.items():
            share = lost if name in OF_STEPS else 0.0
            found[name] += seconds * (1 - share)
            found[LOST_WORK] += seconds * share
    if not is_first:
        found[RESTART] += found[START]
        found[START] = 0.0
    found[RESTART] += gap_sec
    return found


def _lost_share(span: LedgerSpan, kept_until: int | None) -> float:
    """The part of a span's steps that a later start repeated; one without a step is lost with the next step."""
    if kept_until is None or (span.num_steps and span.last_step <= kept_until):
        return 0.0
    if not span.num_steps:
        return float(span.first_step > kept_until)
    return (span.last_step - max(kept_until, span.first_step - 1)) / span.num_steps


def _start(
    members: Sequence[Process], seconds: dict[str, float], kept_until: int | None, total_sec: float
) -> StartAccount:
    last_step = max((s.last_step for one in members for s in one.spans if s.num_steps), default=members[0].from_step)
    worst = min((one.how for one in members), key=(KILLED, FAILED, STOPPED, COMPLETE).index)
    return StartAccount(
        start=members[0].start,
        world_size=members[0].world_size,
        from_step=members[0].from_step,
        last_step=last_step,
        began_sec=min(one.began_sec for one in members),
        ended_sec=max(one.ended_sec for one in members),
        how=worst,
        lost_steps=0 if kept_until is None else max(0, last_step - kept_until),
        seconds=seconds,
        total_sec=total_sec,
        stragglers=_stragglers(members),
    )


def _stragglers(members: Sequence[Process]) -> tuple[Straggler, ...]:
    per_step: dict[int, dict[str, float]] = {}
    for process in members:
        num_steps = sum(span.num_steps for span in process.spans)
        if num_steps:
            sums = {part: sum(span.seconds.get(part, 0.0) for span in process.spans) for part in OWN_PARTS}
            per_step[process.rank] = {part: seconds / num_steps for part, seconds in sums.items()}
    if not per_step:
        return ()
    nodes = {process.rank: process.node for process in members}
    medians = {part: statistics.median(one[part] for one in per_step.values()) for part in OWN_PARTS}
    own_median = statistics.median(sum(one.values()) for one in per_step.values())
    found = [
        Straggler(
            rank,
            nodes[rank],
            sum(one.values()),
            sum(one.values()) / own_median if own_median else 1.0,
            {part: one[part] - medians[part] for part in OWN_PARTS},
        )
        for rank, one in per_step.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.score))
