"""The phase that a configuration asks for, before anything is carried into it.

In: the opened sources, their streams and shares. Out: a `Phase` that describes them. What decides whether a stream
carries over is gathered here: settings of its documents, the grammar that frames them, the layout of groups and lanes,
and for each part the sha256 of its files and the samples held out of it.

The phases of a run as text or JSON: the logic of `titan-speech data phases`.

In: a run folder. Out: for each phase of the run's newest checkpoint, or of the phase it began last, where it lies, what
it read, and what became of each stream. A phase ends where the next begins; the last one at the newest checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.documents import Documents
from titan_speech.data.held_out import MaskedPart
from titan_speech.data.order import ORDER_VERSION, SlotOrder
from titan_speech.data.phase_files import (
    PHASES_DIR,
    continued_from,
    newest_checkpoint,
    phase_diff,
    phase_end,
    read_phases,
)
from titan_speech.data.phases import PartRecord, Phase, PhaseEnd, StreamRecord, first_phase, phase_at
from titan_speech.data.shuffle_partitions import PartitionedStream
from titan_speech.data.sources import OpenedSource, document_settings
from titan_speech.errors import CheckpointError
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.utils.text_table import table_lines


def wanted_phase(
    config: SpeechConfig,
    grammar: Grammar,
    sources: Sequence[OpenedSource],
    packs: Sequence[PartitionedStream],
    shares: Mapping[tuple[str, str], float],
    order: SlotOrder,
    fingerprint: str,
) -> Phase:
    """As if the run began with it."""
    return Phase(
        label=config.data.phase,
        plan=fingerprint,
        seq_len=config.training.seq_len,
        packs_per_step=Budget.from_config(config).packs_per_step,
        settings={
            "seed": str(config.data.seed),
            "too_long": config.data.too_long,
            "held_out": ", ".join(config.data.held_out) or "none",
        },
        streams=tuple(
            _record(config, grammar, source, stream, shares[source.table.name, source.language], units)
            for source, stream, units in zip(sources, packs, order.units, strict=True)
        ),
    )


def run_phases(config: SpeechConfig, wanted: Phase, resumed: PhaseEnd | None) -> tuple[Phase, ...]:
    """The run's phases up to the one it reads now, from where its checkpoint stands or from the start."""
    if resumed is None:
        continued = continued_from(Path(config.data.continue_from)) if config.data.continue_from else None
        return (first_phase(wanted, continued),)
    tokens_seen = resumed.step * config.training.global_batch_tokens
    phase = phase_at(wanted, resumed, phase_diff(resumed.last, wanted), tokens_seen)
    return resumed.phases if phase is resumed.last else (*resumed.phases, phase)


def _record(
    config: SpeechConfig, grammar: Grammar, source: OpenedSource, stream: PartitionedStream, share: float, units: int
) -> StreamRecord:
    return StreamRecord(
        source=source.table.name,
        language=source.language,
        settings={
            **document_settings(source, config.training.seq_len),
            "grammar": grammar.fingerprint,
            "order version": str(ORDER_VERSION),
        },
        train_on=source.table.train_on,
        parts=tuple(_part(documents) for documents in source.documents),
        store=source.table.store,
        share=share,
        units=units,
        rules=stream.rules,
        epoch_packs=stream.counts.num_packs,
        epoch_tokens=stream.counts.num_tokens,
        seed=config.data.seed,
    )


def _part(documents: Documents) -> PartRecord:
    part = documents.part
    held_out = part.held_out if isinstance(part, MaskedPart) else None
    digest = "" if held_out is None else hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest()[:16]
    return PartRecord(part.name, part.info.fingerprint, digest)


HEADER = ("stream", "share", "tokens read", "epochs read", "epochs in all", "")


@dataclass(frozen=True)
class StreamFigures:
    """What a phase read of a stream."""

    name: str
    share: float
    num_tokens: int
    """Tokens of packs, padding included."""
    num_epochs: float
    num_epochs_in_all: float
    """With the phases before, and the runs it continues; by the pack counts of this phase."""
    status: str


@dataclass(frozen=True)
class PhaseFigures:
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
    streams: tuple[StreamFigures, ...]
    retired: tuple[str, ...]


def phase_figures(run_folder: Path) -> list[PhaseFigures]:
    """The phases of the run, oldest first."""
    chain, end_step = _chain(run_folder)
    ends = [*((phase.first_step, phase.first_slot) for phase in chain[1:])]
    ends.append((end_step, chain[-1].slots(end_step).start))
    return [_figures(phase, *end) for phase, end in zip(chain, ends, strict=True)]


def _chain(run_folder: Path) -> tuple[tuple[Phase, ...], int]:
    if not run_folder.is_dir():
        raise CheckpointError(f"there is no run folder {run_folder}; give what job.dump_folder of the run says")
    checkpoint = newest_checkpoint(run_folder)
    end = phase_end(checkpoint) if checkpoint is not None else None
    if end is not None:
        return end.phases, end.step
    records = sorted((run_folder / PHASES_DIR).glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not records:
        raise CheckpointError(
            f"{run_folder} has no {PHASES_DIR} folder and no checkpoint with one: it is no run folder, or its run "
            "ended before it began its first phase"
        )
    chain = read_phases(run_folder / PHASES_DIR, records[-1].stem)
    return chain, chain[-1].first_step


def _figures(phase: Phase, end_step: int, end_slot: int) -> PhaseFigures:
    num_packs = phase.order().num_packs(end_slot - phase.first_slot)
    return PhaseFigures(
        label=phase.label,
        plan=phase.plan,
        seq_len=phase.seq_len,
        first_step=phase.first_step,
        end_step=end_step,
        first_slot=phase.first_slot,
        end_slot=end_slot,
        first_token=phase.first_token,
        continues=phase.continues,
        streams=tuple(_stream(phase, *pair) for pair in zip(phase.streams, num_packs, strict=True)),
        retired=tuple(stream.name for stream in phase.retired),
    )


def _stream(phase: Phase, stream: StreamRecord, num_packs: int) -> StreamFigures:
    before = sum(leg.num_packs * leg.rules.seq_len for leg in stream.legs)
    here = num_packs * phase.seq_len
    epoch = stream.epoch_packs * phase.seq_len
    status = stream.status + (f": {stream.reason}" if stream.reason else "")
    return StreamFigures(stream.name, stream.share, here, here / epoch, (before + here) / epoch, status)


def phases_json(run_folder: Path) -> str:
    return json.dumps([asdict(phase) for phase in phase_figures(run_folder)], indent=1, ensure_ascii=False)


def phases_text(run_folder: Path) -> str:
    return "\n\n".join("\n".join(_lines(phase)) for phase in phase_figures(run_folder))


def _lines(phase: PhaseFigures) -> list[str]:
    tokens = (phase.end_slot - phase.first_slot) * phase.seq_len
    lines = [
        f"phase {phase.label!r}, data plan {phase.plan}, seq_len {phase.seq_len:,}",
        f"  steps {phase.first_step:,} to {phase.end_step:,}, slots {phase.first_slot:,} to {phase.end_slot:,}, "
        f"tokens {phase.first_token:,} to {phase.first_token + tokens:,}",
    ]
    if phase.continues:
        lines.append(f"  continues {phase.continues}")
    rows = [HEADER, *(_row(stream) for stream in phase.streams)]
    lines += [f"  {line}" for line in table_lines(rows, "<>>>><")]
    return lines + [f"  {name}: retired" for name in phase.retired]


def _row(stream: StreamFigures) -> tuple[str, ...]:
    epochs = (f"{stream.num_epochs:.3g}", f"{stream.num_epochs_in_all:.3g}")
    return stream.name, f"{stream.share:.2%}", f"{stream.num_tokens:,}", *epochs, stream.status
