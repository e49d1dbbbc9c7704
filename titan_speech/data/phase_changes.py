"""The phase that a configuration asks for, what changed since the previous one, and the phases of the run up to it.

In: the planned streams, and the checkpoint from which the run resumes or continues. Out: the run's phases; the last one
is read. What decides whether a stream resumes is collected here: the settings of its documents, the prompt templates,
the version of the order, and for each part the sha256 of its files and the samples held out of it.

`phase_diff` describes the changes between two plans in lines such as

    seq_len 2,048 -> 4,096
    source tts: share 10 % -> 35 %
    source speech, language hi: parts changed: wild.hi.speech 1f2e.. -> 77aa..

A change that all languages of a source have in common is named once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.documents import Documents
from titan_speech.data.held_out_samples import MaskedPart
from titan_speech.data.order import ORDER_VERSION
from titan_speech.data.phase_files import continued_from
from titan_speech.data.phases import PartRecord, Phase, PhaseEnd, StreamRecord, first_phase, resume_phase
from titan_speech.data.planned_streams import PlannedStream, document_settings
from titan_speech.tokenization.prompt_template import Grammar


def wanted_phase(config: SpeechConfig, grammar: Grammar, streams: Sequence[PlannedStream], fingerprint: str) -> Phase:
    """The phase that the configuration describes, as if the run began with it."""
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
        streams=tuple(_stream_record(config, grammar, stream) for stream in streams),
    )


def _stream_record(config: SpeechConfig, grammar: Grammar, planned: PlannedStream) -> StreamRecord:
    return StreamRecord(
        source=planned.source,
        language=planned.language,
        settings={
            **document_settings(planned.config, config.training.seq_len),
            "grammar": grammar.fingerprint,
            "order version": str(ORDER_VERSION),
        },
        train_on=planned.config.train_on,
        parts=tuple(_part_record(documents) for documents in planned.documents),
        store=planned.config.store,
        share=planned.share,
        units=planned.units,
        rules=planned.stream.rules,
        epoch_packs=planned.counts.num_packs,
        epoch_tokens=planned.counts.num_tokens,
        seed=config.data.seed,
    )


def _part_record(documents: Documents) -> PartRecord:
    part = documents.part
    held_out = part.hidden if isinstance(part, MaskedPart) else None
    digest = "" if held_out is None else hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest()[:16]
    return PartRecord(part.name, part.info.fingerprint, digest)


def run_phases(config: SpeechConfig, wanted: Phase, resumed: PhaseEnd | None) -> tuple[Phase, ...]:
    """The run's phases up to the one it reads now, from its checkpoint `resumed` or from the start."""
    if resumed is None:
        continued = continued_from(Path(config.data.continue_from)) if config.data.continue_from else None
        return (first_phase(wanted, continued),)
    tokens_seen = resumed.step * config.training.global_batch_tokens
    phase = resume_phase(wanted, resumed, phase_diff(resumed.last, wanted), tokens_seen)
    return resumed.phases if phase is resumed.last else (*resumed.phases, phase)


MIN_SHARE_SHOWN = 5e-4
"""Smaller changes of a share are reported as changed quotas."""
MAX_LINES = 20


def phase_diff(before: Phase, after: Phase) -> str:
    """What changed between two data plans, one line per change."""
    changes = [*_setting_changes(before, after), *_stream_changes(before, after), *_share_changes(before, after)]
    lines = list(dict.fromkeys(changes))
    if not lines:
        old_units, new_units = ({stream.name: stream.units for stream in phase.streams} for phase in (before, after))
        quotas = sum(old_units.get(name) != units for name, units in new_units.items())
        lines = [f"packs per cycle of {quotas:,} streams" if quotas else "the version of the data order"]
    rest = len(lines) - MAX_LINES
    lines = lines[:MAX_LINES] + ([f"and {rest:,} more changes"] if rest > 0 else [])
    return "\n".join(f"  {line}" for line in lines)


def _setting_changes(before: Phase, after: Phase) -> Iterator[str]:
    if before.seq_len != after.seq_len:
        yield f"seq_len {before.seq_len:,} -> {after.seq_len:,}"
    elif before.packs_per_step != after.packs_per_step:
        yield f"packs per step {before.packs_per_step:,} -> {after.packs_per_step:,}"
    for key in dict.fromkeys([*before.settings, *after.settings]):
        old, new = before.settings.get(key, "none"), after.settings.get(key, "none")
        if old != new:
            yield f"{key} {old} -> {new}"


def _stream_changes(before: Phase, after: Phase) -> Iterator[str]:
    old, new = ({(s.source, s.language): s for s in phase.streams} for phase in (before, after))
    old_sources, new_sources = ({source for source, _ in streams} for streams in (old, new))
    for source in sorted(old_sources ^ new_sources):
        yield f"source {source}: {'left out' if source in old_sources else 'added'}"
    for source, language in sorted({*old, *new}):
        if source not in old_sources & new_sources:
            continue
        old_stream, new_stream = old.get((source, language)), new.get((source, language))
        if old_stream is None or new_stream is None:
            yield f"source {source}: language {language} {'added' if old_stream is None else 'left out'}"
        else:
            yield from _changes_of_stream(old_stream, new_stream)


def _changes_of_stream(old: StreamRecord, new: StreamRecord) -> Iterator[str]:
    if old.store != new.store and old.parts != new.parts:
        yield f"source {new.source}: store {old.store} -> {new.store}"
    if old.train_on != new.train_on:
        yield f"source {new.source}: train_on {old.train_on} -> {new.train_on}"
    for difference in new.differences(old):
        is_of_part = difference.startswith("parts")
        yield f"source {new.source}{f', language {new.language}' if is_of_part else ''}: {difference}"


def _share_changes(before: Phase, after: Phase) -> Iterator[str]:
    for what in ("source", "language"):
        old, new = _shares_by(what, before), _shares_by(what, after)
        for name in sorted(old.keys() & new.keys()):
            if abs(old[name] - new[name]) > MIN_SHARE_SHOWN:
                yield f"{what} {name}: share {100 * old[name]:.3g} % -> {100 * new[name]:.3g} %"


def _shares_by(what: str, phase: Phase) -> dict[str, float]:
    sums: dict[str, float] = {}
    for stream in phase.streams:
        name = attrgetter(what)(stream)
        sums[name] = sums.get(name, 0.0) + stream.share
    return sums
