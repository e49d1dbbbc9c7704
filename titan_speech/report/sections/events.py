"""What happened besides training: starts and restarts, rollbacks, skipped steps, warnings of the logs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from titan_speech.report.blocks import Block, Cell, Paragraph, Section, Table
from titan_speech.report.metrics_log import END, FLAGGED, START
from titan_speech.report.run import Run
from titan_speech.utils.text_table import counted

MAX_ROWS = 40
_SKIPPED = re.compile(r"skipped-step-(\d{1,15})\.json")


def events(runs: Sequence[Run]) -> Section | None:
    """Restarts, rollbacks, skipped steps and warnings."""
    blocks: list[Block] = []
    for run in runs:
        before = f"{run.name}: " if len(runs) > 1 else ""
        if run.log.starts:
            blocks.append(_starts(run, before))
        tables = (_flagged(run, before), _rollbacks(run, before), _skipped(run, before))
        blocks += [table for table in tables if table is not None]
        blocks.append(_messages(run, before))
        if run.log.num_damaged:
            text = f"{before}{counted(run.log.num_damaged, 'line')} of metrics.jsonl could not be read."
            blocks.append(Paragraph(text, "warn"))
    return Section("events", "Restarts and warnings", "", blocks)


def _ends(run: Run) -> dict[int, str]:
    """How each start ended, by its number; one that was killed did not say."""
    found: dict[int, str] = {}
    number = 0
    for event in run.log.events:
        number += event.name == START
        if event.name == END:
            found[number] = f"{event.texts.get('how', '?')} at step {event.step:,}"
    return found


def _starts(run: Run, before: str) -> Table:
    ended = _ends(run)
    rows = [
        (
            f"{number}",
            f"{start.step:,}",
            Cell(f"{start.repeated_steps:,}", "warn" if start.repeated_steps else ""),
            "?" if start.world_size is None else f"{start.world_size:,}",
            ended.get(number, "–"),
            start.start_from,
        )
        for number, start in reversed(list(enumerate(run.log.starts, 1)))
    ][:MAX_ROWS]
    heads = ("Start", "At step", "Steps trained again", "Ranks", "Ended", "From")
    caption = f"{before}{len(run.log.starts):,} starts, {len(run.log.starts) - 1:,} of them restarts"
    return Table(heads, rows, caption, last_is_words=True)


def _flagged(run: Run, before: str) -> Table | None:
    """Bounds of checks that the run left."""
    found = [event for event in run.log.events if event.name == FLAGGED][-MAX_ROWS:]
    rows = [
        (f"{event.step:,}", Cell(event.texts.get("what", "?"), "bad"), event.texts.get("message", "")[:500])
        for event in reversed(found)
    ]
    return Table(("Step", "What", "Message"), rows, f"{before}bounds that were left", 2, True) if rows else None


def _rollbacks(run: Run, before: str) -> Table | None:
    found = run.json(run.folder / "health" / "rollbacks.json")
    rows = []
    for one in (found if isinstance(found, list) else ())[-MAX_ROWS:]:
        if not isinstance(one, dict):
            continue
        what = f"skipped: steps {one.get('first')!s:.20} to {one.get('last')!s:.20}"
        if one.get("breach"):
            what = f"half the rate: {one['breach']!s:.500}"
        rows.append((f"{one.get('spike')!s:.20}", f"{one.get('back_to')!s:.20}", what))
    heads = ("At step", "Back to step", "What")
    return Table(heads, rows, f"{before}rollbacks after loss spikes and breaches", 2, True) if rows else None


def _skipped(run: Run, before: str) -> Table | None:
    paths = (run.folder / "health").glob("skipped-step-*.json")
    steps = sorted(int(match[1]) for path in paths if (match := _SKIPPED.fullmatch(path.name)))
    rows = []
    for step in steps[-MAX_ROWS:]:
        record = run.json(run.folder / "health" / f"skipped-step-{step}.json")
        if isinstance(record, dict):
            rows.append((f"{step:,}", *(str(record.get(key))[:200] for key in ("loss", "gradient", "suspect_slots"))))
    caption = f"{before}{counted(len(steps), 'step')} without an update, since loss or gradient was not finite"
    return Table(("Step", "Loss", "Gradient", "Suspect slots"), rows, caption, last_is_words=True) if rows else None


def _messages(run: Run, before: str) -> Block:
    if not run.messages:
        return Paragraph(f"{before}no warnings in the logs of the ranks.", "soft")
    rows = [
        (
            Cell(message.level.lower(), "bad" if message.level != "WARNING" else "warn"),
            message.last_time,
            f"{message.count:,}",
            ", ".join(sorted(message.ranks)[:8]) + (" …" if len(message.ranks) > 8 else ""),
            message.text[:500],
        )
        for message in run.messages[:MAX_ROWS]
    ]
    caption = f"{before}{len(run.messages):,} warnings and errors of the logs; those that differ in numbers are one"
    return Table(("Level", "Last", "Times", "Ranks", "Message"), rows, caption, last_is_words=True)
