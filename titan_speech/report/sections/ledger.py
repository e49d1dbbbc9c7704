"""The ledger of time: what every second of every process was spent on, over restarts; ranks that are slower."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from titan_speech.ledger.goodput import Account, StartAccount, account
from titan_speech.ledger.records import CLASSES, read_ledger
from titan_speech.report.blocks import Block, Cell, Section, Stack, StackPart, Table
from titan_speech.report.run import Run
from titan_speech.utils.progress import clock

MAX_RANKS = 8
MAX_STARTS = 20
WARN_SCORE = 1.1
"""Own step time over the median of the ranks."""


def ledger(runs: Sequence[Run]) -> Section | None:
    """Where the time of each run went."""
    blocks: list[Block] = []
    for run in runs:
        found = account_of(run)
        if found is None:
            continue
        blocks.append(_stack(run.name if len(runs) > 1 else "All processes", found))
        blocks.append(_classes(found))
        if len(found.starts) > 1:
            blocks.append(_starts(found))
        blocks += [ranks for start in found.starts[-1:] if (ranks := _ranks(start)) is not None]
    if not blocks:
        return None
    lead = "Seconds of all processes together, from their creation to their last sign of life."
    return Section("ledger", "Time", lead, blocks)


def account_of(run: Run) -> Account | None:
    """The account of a run; None if it has no ledger."""
    try:
        processes = read_ledger(run.folder)
        found = account(processes) if processes else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, ZeroDivisionError) as error:
        run.problems.append(f"the ledger of time cannot be read: {error}")
        return None
    return found if found is not None and found.starts and found.total_sec > 0 else None


def _stack(title: str, found: Account) -> Stack:
    parts = [
        StackPart(name.replace("_", " "), clock(seconds), seconds / found.total_sec, f"k{number}")
        for number, (name, seconds) in enumerate(found.seconds.items())
        if seconds > 0
    ]
    return Stack(f"{title}: {found.goodput:.1%} goodput of {clock(found.total_sec)}", parts)


def _classes(found: Account) -> Table:
    rows: list[tuple[Cell | str, ...]] = [
        (
            Cell(name.replace("_", " "), color=f"k{number}"),
            f"{seconds:,.1f}",
            f"{seconds / found.total_sec:.2%}",
            CLASSES[name],
        )
        for number, (name, seconds) in enumerate(found.seconds.items())
    ]
    share = found.unclassified_sec / found.total_sec
    tone = "warn" if abs(share) > 0.01 else ""
    rows.append((Cell("unclassified"), f"{found.unclassified_sec:,.1f}", Cell(f"{share:.2%}", tone), "of no class"))
    return Table(("Class", "Seconds", "Share", "What belongs to it"), rows, last_is_words=True)


def _starts(found: Account) -> Table:
    rows = [_start_row(start) for start in reversed(found.starts[-MAX_STARTS:])]
    heads = ("Start", "Begun, UTC", "Lasted", "Ranks", "Steps", "Steps lost", "Goodput", "Ended")
    return Table(heads, rows, "Starts of the run")


def _start_row(start: StartAccount) -> tuple[Cell | str, ...]:
    try:
        when = datetime.fromtimestamp(start.began_sec, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        when = "?"
    goodput = start.seconds["step"] / start.total_sec if start.total_sec > 0 else 0.0
    return (
        f"{start.start + 1}",
        when,
        clock(max(0.0, start.ended_sec - start.began_sec)),
        f"{start.world_size:,}",
        f"{start.from_step:,} to {start.last_step:,}",
        Cell(f"{start.lost_steps:,}", "warn" if start.lost_steps else ""),
        f"{goodput:.1%}",
        Cell(start.how or "killed or running", "" if start.how in ("complete", "stopped") else "warn"),
    )


def _ranks(start: StartAccount) -> Table | None:
    if len(start.stragglers) < 2:
        return None
    rows = [
        (
            f"{one.rank}",
            f"{one.own_step_sec:.3f}",
            Cell(f"{one.score:.2f}", "warn" if one.score > WARN_SCORE else ""),
            *(f"{one.excess_sec.get(part, 0.0):+.3f}" for part in ("step", "data_wait", "save_stall")),
            one.node,
        )
        for one in start.stragglers[:MAX_RANKS]
    ]
    heads = ("Rank", "Own seconds per step", "Of the median", "Step, s", "Data wait, s", "Save stall, s", "Node")
    caption = "The slowest ranks of the last start; the last columns are seconds per step above the median, by part."
    return Table(heads, rows, caption, last_is_words=True)
