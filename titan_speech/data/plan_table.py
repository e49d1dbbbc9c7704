"""The plan as lines for a terminal: one a stream, then what is left out.

In: a `DataPlan`. Out: text, printed when a run starts. Epochs are what the whole run reads of each stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from titan_speech.data.quotas import CYCLE_SLOTS

if TYPE_CHECKING:
    from titan_speech.data.plan import DataPlan, PlannedStream

HEADER = ("source", "language", "task", "documents", "tokens", "share", "packs a cycle", "epochs", "fill")


def plan_table(plan: DataPlan) -> str:
    rows = [HEADER, *(_row(stream, plan.total_slots) for stream in plan.streams)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [f"data plan {plan.fingerprint}: {plan.total_slots:,} packs of {plan.seq_len:,} tokens", *_phase(plan)]
    lines += [
        "  ".join(_cell(*cell) for cell in zip(row, widths, range(len(row)), strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *plan.held_out, *_left_out(plan)])


def _phase(plan: DataPlan) -> list[str]:
    """Where a phase that is not a run's plain beginning starts, and what became of each stream."""
    phase = plan.phase
    if not phase.parent:
        return []
    where = phase.continues or f"step {phase.first_step:,}, slot {phase.first_slot:,}"
    lines = [f"phase {phase.label!r} goes on from {where}"]
    for stream in phase.streams:
        num_packs = sum(leg.num_packs for leg in stream.legs)
        told = {
            "carried": f"carried, {num_packs:,} packs read before",
            "new": "new",
            "restarted": f"restarted: {stream.reason}",
        }
        lines.append(f"  {stream.name}: {told[stream.status]}")
    return lines + [f"  {stream.name}: retired" for stream in phase.retired]


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < 3 else text.rjust(width)


def _row(stream: PlannedStream, total_slots: int) -> tuple[str, ...]:
    counts = stream.packs.counts
    epochs = total_slots * stream.quota / CYCLE_SLOTS / counts.num_packs
    return (
        stream.source,
        stream.language,
        stream.task,
        f"{counts.num_documents:,}",
        f"{counts.num_tokens:,}",
        f"{stream.share:.2%}",
        f"{stream.quota:,}",
        f"{epochs:.3g}",
        f"{stream.mean_fill:.4f}",
    )


def _left_out(plan: DataPlan) -> list[str]:
    lines = []
    for stream in plan.streams:
        counts = stream.packs.counts
        for done, number in (("dropped", counts.num_dropped), ("split", counts.num_split)):
            if number:
                lines.append(
                    f"{stream.name}: {done} {number:,} samples longer than {plan.seq_len:,} tokens "
                    f"(longest {counts.longest:,})"
                )
        if counts.num_unusable:
            lines.append(f"{stream.name}: {counts.num_unusable:,} samples lack what task {stream.task} needs")
        if stream.quota == 0:
            lines.append(f"{stream.name}: never read, its share is below 1 / {CYCLE_SLOTS:,}")
    return lines
