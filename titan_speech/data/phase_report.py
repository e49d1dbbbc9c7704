"""The phases of a run as text or JSON: the logic of `titan-speech data phases`.

In: a run folder. Out: for each phase up to the run's newest checkpoint (or, without a checkpoint, up to the phase it
began last): its steps, slots and tokens, and what it read of each stream. A phase ends where the next begins; the last
one ends at the newest checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from titan_speech.data.phase_files import PHASES_DIR, phase_end, read_phases
from titan_speech.data.phases import Phase, StreamRecord
from titan_speech.errors import CheckpointError
from titan_speech.utils.printable import joined_lines
from titan_speech.utils.text_table import table_lines

PHASE_COLUMNS = ("stream", "share", "tokens read", "epochs read", "epochs in all", "")


@dataclass(frozen=True)
class StreamSummary:
    """What a phase read of a stream."""

    name: str
    share: float
    num_tokens: int
    """Tokens of packs, padding included."""
    num_epochs: float
    num_epochs_in_all: float
    """With earlier phases and the runs that this one continues; by the pack counts of this phase."""
    status: str


@dataclass(frozen=True)
class PhaseSummary:
    """One phase of a run."""

    label: str
    plan: str
    seq_len: int
    first_step: int
    end_step: int
    first_slot: int
    end_slot: int
    first_token: int
    continues: str
    streams: tuple[StreamSummary, ...]
    retired: tuple[str, ...]


def summarize_phases(run_folder: Path, newest: Path | None) -> list[PhaseSummary]:
    """The phases of the run, oldest first.

    Args:
        newest: the newest complete checkpoint of the run (.../step-N), if it has one.

    Raises:
        CheckpointError: the folder does not exist, is not a run folder, or its records are damaged.
    """
    phases, end_step = _read_run(run_folder, newest)
    ends = [(phase.first_step, phase.first_slot) for phase in phases[1:]]
    ends.append((end_step, phases[-1].slots(end_step).start))
    return [_summarize(phase, *end) for phase, end in zip(phases, ends, strict=True)]


def _read_run(run_folder: Path, newest: Path | None) -> tuple[tuple[Phase, ...], int]:
    """The phases of a run, and the step at which the last one ends."""
    if not run_folder.is_dir():
        raise CheckpointError(f"there is no run folder {run_folder}; give the run's job.dump_folder")
    end = phase_end(newest) if newest is not None else None
    if end is not None:
        return end.phases, end.step
    records = sorted((run_folder / PHASES_DIR).glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise CheckpointError(
            f"{run_folder} has no {PHASES_DIR} folder and no checkpoint with one: it is not a run folder, or its run "
            "ended before its first phase began"
        )
    phases = read_phases(run_folder / PHASES_DIR, records[-1].stem)
    return phases, phases[-1].first_step


def _summarize(phase: Phase, end_step: int, end_slot: int) -> PhaseSummary:
    num_packs = phase.order().num_packs(end_slot - phase.first_slot)
    return PhaseSummary(
        label=phase.label,
        plan=phase.plan,
        seq_len=phase.seq_len,
        first_step=phase.first_step,
        end_step=end_step,
        first_slot=phase.first_slot,
        end_slot=end_slot,
        first_token=phase.first_token,
        continues=phase.continues,
        streams=tuple(_summarize_stream(phase, *pair) for pair in zip(phase.streams, num_packs, strict=True)),
        retired=tuple(stream.name for stream in phase.retired),
    )


def _summarize_stream(phase: Phase, stream: StreamRecord, num_packs: int) -> StreamSummary:
    before = sum(segment.num_packs * segment.rules.seq_len for segment in stream.segments)
    here = num_packs * phase.seq_len
    epoch = stream.epoch_packs * phase.seq_len
    status = stream.status + (f": {stream.reason}" if stream.reason else "")
    return StreamSummary(stream.name, stream.share, here, here / epoch, (before + here) / epoch, status)


def phases_json(run_folder: Path, newest: Path | None) -> str:
    return json.dumps([asdict(phase) for phase in summarize_phases(run_folder, newest)], indent=1, ensure_ascii=False)


def phases_text(run_folder: Path, newest: Path | None) -> str:
    return "\n\n".join(joined_lines(_lines(phase)) for phase in summarize_phases(run_folder, newest))


def _lines(phase: PhaseSummary) -> list[str]:
    tokens = (phase.end_slot - phase.first_slot) * phase.seq_len
    lines = [
        f"phase {phase.label!r}, data plan {phase.plan}, seq_len {phase.seq_len:,}",
        f"  steps {phase.first_step:,} to {phase.end_step:,}, slots {phase.first_slot:,} to {phase.end_slot:,}, "
        f"tokens {phase.first_token:,} to {phase.first_token + tokens:,}",
    ]
    if phase.continues:
        lines.append(f"  continues {phase.continues}")
    rows = [PHASE_COLUMNS, *(_row(stream) for stream in phase.streams)]
    lines += [f"  {line}" for line in table_lines(rows, "<>>>><")]
    return lines + [f"  {name}: retired" for name in phase.retired]


def _row(stream: StreamSummary) -> tuple[str, ...]:
    epochs = (f"{stream.num_epochs:.3g}", f"{stream.num_epochs_in_all:.3g}")
    status = "resumed" if stream.status == "carried" else stream.status
    return stream.name, f"{stream.share:.2%}", f"{stream.num_tokens:,}", *epochs, status
