"""The complete checkpoints of a run, and how long training waited for saves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from titan_speech.report.blocks import Block, Cell, Paragraph, Section, Table
from titan_speech.report.run import Run, SavedCheckpoint
from titan_speech.utils.text_table import counted, size_text

MAX_ROWS = 50
HEADS = ("Step", "Kind", "Size", "Saved, UTC", "Saved for", "Ranks", "Loss", "State")


def checkpoints(runs: Sequence[Run]) -> Section | None:
    """What can be resumed, exported and listened to."""
    blocks: list[Block] = []
    for run in runs:
        if not run.checkpoints:
            continue
        rows = [_row(run, one) for one in reversed(run.checkpoints[-MAX_ROWS:])]
        left_out = len(run.checkpoints) - len(rows)
        caption = f"{run.name}: " if len(runs) > 1 else ""
        caption += counted(len(run.checkpoints), "complete checkpoint")
        caption += f", the newest {len(rows):,} of them" if left_out else ""
        blocks.append(Table(HEADS, rows, caption))
    missing = [run.name for run in runs if not run.checkpoints]
    if missing:
        blocks.append(Paragraph(f"No complete checkpoint: {', '.join(missing)}", "soft"))
    return Section("checkpoints", "Checkpoints", "Complete ones, with a marker that names every file.", blocks)


def _row(run: Run, saved: SavedCheckpoint) -> tuple[Cell | str, ...]:
    loss = run.log.column("loss").at(saved.step)
    commit = saved.commit
    if commit is None:
        return (f"{saved.step:,}", "?", "?", "?", "?", "?", "?", Cell("marker is damaged", "bad"))
    try:
        when = datetime.fromtimestamp(commit.written_unix_sec, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        when = "?"
    state = Cell(f"suspect: {commit.suspect}", "warn") if commit.suspect else Cell("complete", "good")
    return (
        f"{saved.step:,}",
        commit.kind,
        size_text(commit.num_bytes),
        when,
        commit.reason,
        f"{commit.world_size:,}",
        "–" if loss is None else f"{loss:.4f}",
        state,
    )
