"""The phase that a configuration asks for, before anything is carried into it.

In: the opened sources, their streams and shares. Out: a `Phase` that describes them. What decides whether a stream
carries over is gathered here: settings of its documents, the grammar that frames them, the layout of groups and lanes,
and for each part the sha256 of its files and the samples held out of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from titan_speech.config.budget import Budget
from titan_speech.config.tables import SpeechConfig
from titan_speech.data.documents import Documents
from titan_speech.data.fingerprint import document_settings
from titan_speech.data.held_out import MaskedPart
from titan_speech.data.lanes import LanedStream
from titan_speech.data.order import ORDER_VERSION, SlotOrder
from titan_speech.data.phases.carry import PartRecord, Phase, PhaseEnd, StreamRecord, first_phase, phase_at
from titan_speech.data.phases.diff import phase_diff
from titan_speech.data.phases.files import continued_from
from titan_speech.data.sources import OpenedSource
from titan_speech.prompts import Grammar


def wanted_phase(
    config: SpeechConfig,
    grammar: Grammar,
    sources: Sequence[OpenedSource],
    packs: Sequence[LanedStream],
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
    config: SpeechConfig, grammar: Grammar, source: OpenedSource, stream: LanedStream, share: float, units: int
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
