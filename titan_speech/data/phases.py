"""Phases: stretches of a run with one data plan each, and where each stream resumes in the next one.

In: where the previous phase ended (`PhaseEnd`) and what this configuration reads. Out: the `Phase` that begins or
continues, with each stream's segments: how many packs of it were read under which packing rules, since its first pack.

    phase "start"        slots 0..       speech.hi: 4,096 packs of 2,048         segments ()
    phase "more-hindi"   slots 6,554..   speech.hi: resumes after 4,096 packs    segments ((2048, 4096),)
    phase "long"         slots 9,831..   with seq_len 4,096                      segments ((2048, 7373),)

Read positions follow from the segments in closed form (shuffle_partitions.py), so the record of a phase takes a few kB
however much was read, and resuming in a phase needs nothing of the phases before it. A stream resumes when its source,
language, task and files are the same. A stream whose data changed restarts, and so do clone pairs and stitched
documents under another sequence length, because they are fitted to it. A stream that is left out keeps its segments
until it returns. The seed concerns streams that start: a resumed stream keeps the order it began with.

A phase is measured in slots: it ends at the checkpoint from which the next phase continues.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from titan_speech.data.order import SlotOrder, order_of_units, table_cells
from titan_speech.data.packing import PackingRules
from titan_speech.errors import CheckpointError
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.record_types import check_types

Status = Literal["new", "carried", "restarted"]
"""As recorded; "carried" is a stream that resumes where the previous phase left it."""


@dataclass(frozen=True)
class Segment:
    """Packs of a stream that were read under one set of packing rules."""

    rules: PackingRules
    num_packs: int


@dataclass(frozen=True)
class PartRecord:
    """A part of a store that a stream reads."""

    name: str
    fingerprint: str
    """Of all its files."""
    held_out: str = ""
    """Fingerprint of the samples that are never read; empty if all are read."""


@dataclass(frozen=True, kw_only=True)
class StreamRecord:
    """One source in one language, as a phase reads it."""

    source: str
    language: str
    settings: dict[str, str]
    """What makes documents of its samples: task, transcript and so on. With the parts it decides whether the stream
    resumes."""
    train_on: str
    parts: tuple[PartRecord, ...]
    store: str
    """Folder or address of the store; for messages only."""
    share: float
    """Share of the phase's tokens."""
    units: int
    """Share of the phase's packs, in 1/16 pack per cycle."""
    rules: PackingRules
    epoch_packs: float
    epoch_tokens: int
    seed: int = 0
    """The seed its order began with."""
    segments: tuple[Segment, ...] = ()
    """What was read before this phase. Recorded as "legs"."""
    status: Status = "new"
    reason: str = ""
    """What changed, if the stream is restarted."""

    @property
    def name(self) -> str:
        return f"{self.source}.{self.language}"

    def after(self, num_packs: int) -> StreamRecord:
        """The stream after `num_packs` of this phase; neighbouring segments with equal rules are merged."""
        *earlier, last = (*self.segments, Segment(self.rules, num_packs))
        if earlier and earlier[-1].rules == last.rules:
            last = Segment(last.rules, earlier.pop().num_packs + num_packs)
        return replace(self, segments=(*earlier, last) if last.num_packs else tuple(earlier))

    def differences(self, other: StreamRecord) -> list[str]:
        """Changes that prevent this stream from resuming at the position of `other`."""
        found = [
            f"{key} {other.settings.get(key, 'none')} -> {self.settings.get(key, 'none')}"
            for key in sorted({*self.settings, *other.settings})
            if self.settings.get(key) != other.settings.get(key)
        ]
        if self.parts != other.parts:
            found.append(parts_changed(other.parts, self.parts))
        return found

    def to_dict(self) -> dict[str, Any]:
        """As recorded: the segments are called "legs", in records of every version."""
        return {{"segments": "legs"}.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> StreamRecord:
        """Raises KeyError or TypeError if the content is not the record of a stream."""
        fields = dict(content)
        legs = fields.pop("legs")
        fields["parts"] = tuple(PartRecord(**part) for part in fields["parts"])
        fields["rules"] = PackingRules(**fields["rules"])
        segments = tuple(Segment(PackingRules(**leg["rules"]), leg["num_packs"]) for leg in legs)
        return cls(**fields, segments=segments)


def parts_changed(before: Sequence[PartRecord], after: Sequence[PartRecord]) -> str:
    """The first part that differs, with its fingerprints, as one line."""
    old, new = ({part.name: part for part in parts} for parts in (before, after))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            return f"parts changed: {name} {_part_text(old.get(name))} -> {_part_text(new.get(name))}"
    return "parts in another order"


def _part_text(part: PartRecord | None) -> str:
    if part is None:
        return "absent"
    return f"{part.fingerprint}, held out {part.held_out}" if part.held_out else part.fingerprint


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a run with one data plan; `fingerprint` identifies its content."""

    label: str
    plan: str
    """Fingerprint of the data plan."""
    seq_len: int
    packs_per_step: int
    settings: dict[str, str]
    """Settings of all streams that change what is read: seed, too_long and so on."""
    streams: tuple[StreamRecord, ...]
    retired: tuple[StreamRecord, ...] = ()
    """Streams of earlier phases that this phase does not read."""
    first_step: int = 0
    first_slot: int = 0
    first_token: int = 0
    """Tokens the run had trained on when the phase began."""
    parent: str = ""
    """Fingerprint of the previous phase; for the first phase of a run, of the phase it continues from another run."""
    continues: str = ""
    """Checkpoint of another run whose streams resume here."""
    fingerprint: str = field(default="", compare=False)

    def with_fingerprint(self) -> Phase:
        """This phase with its fingerprint: over all that decides the data from here on, without paths and shares."""
        streams = (*self.streams, *self.retired)
        content = {
            "identity": [self.label, self.plan, self.first_step, self.first_slot, self.packs_per_step, self.parent],
            "streams": [[stream.name, stream.seed, list(map(asdict, stream.segments))] for stream in streams],
        }
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return replace(self, fingerprint=hashlib.sha256(canonical.encode()).hexdigest()[:16])

    def slots(self, step: int) -> range:
        """The global slots of one step, steps counted from 0."""
        first = self.first_slot + (step - self.first_step) * self.packs_per_step
        return range(first, first + self.packs_per_step)

    def order(self) -> SlotOrder:
        cells = table_cells([(stream.source, stream.language) for stream in self.streams])
        return order_of_units(*cells, np.array([stream.units for stream in self.streams]))

    def streams_after(self, num_slots: int) -> tuple[StreamRecord, ...]:
        """All streams after `num_slots` slots of this phase; those it does not read come last, unchanged."""
        num_packs = self.order().num_packs(num_slots)
        read = (stream.after(number) for stream, number in zip(self.streams, num_packs, strict=True))
        return (*read, *self.retired)

    def to_json(self) -> str:
        streams = {name: [stream.to_dict() for stream in getattr(self, name)] for name in ("streams", "retired")}
        return json.dumps({**asdict(self), **streams}, indent=1, ensure_ascii=False) + "\n"


def phase_from_json(text: str) -> Phase:
    """Read what `Phase.to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: the text is not the record of a phase, or does not match its fingerprint.
    """
    content: dict[str, Any] = parse_json(text)
    streams = {name: tuple(map(StreamRecord.from_dict, content[name])) for name in ("streams", "retired")}
    phase = Phase(**{**content, **streams})
    check_types(phase)
    phase = phase.with_fingerprint()
    if phase.fingerprint != content["fingerprint"]:
        raise ValueError(f"its content gives fingerprint {phase.fingerprint}, it says {content['fingerprint']}")
    return phase


@dataclass(frozen=True)
class PhaseEnd:
    """The data position of a checkpoint: its step and the phases of its run up to it."""

    checkpoint: str
    step: int
    phases: tuple[Phase, ...]
    """Oldest first; the checkpoint belongs to the last."""

    @property
    def last(self) -> Phase:
        return self.phases[-1]

    @property
    def next_slot(self) -> int:
        return self.last.slots(self.step).start

    def streams(self) -> tuple[StreamRecord, ...]:
        """All streams of the run with what was read of them up to the checkpoint."""
        return self.last.streams_after(self.next_slot - self.last.first_slot)


def first_phase(wanted: Phase, continued: PhaseEnd | None = None) -> Phase:
    """The phase a new run begins with; its streams resume from `continued`, a checkpoint of another run, if given."""
    if continued is None:
        return wanted.with_fingerprint()
    streams, retired = resume_streams(wanted.streams, continued.streams())
    return replace(
        wanted, streams=streams, retired=retired, parent=continued.last.fingerprint, continues=continued.checkpoint
    ).with_fingerprint()


def resume_phase(wanted: Phase, end: PhaseEnd, diff: str, tokens_seen: int) -> Phase:
    """The phase in which a run resumes from its own checkpoint: its last one, or a new one under a new label.

    Args:
        wanted: the phase that the configuration describes.
        end: the checkpoint.
        diff: what changed between the two plans, in lines for a message.
        tokens_seen: tokens the run had trained on at the checkpoint.

    Raises:
        CheckpointError: the plan changed and no new phase is declared, or the label was used before.
    """
    last = end.last
    if wanted.label == last.label:
        if wanted.plan != last.plan or wanted.packs_per_step != last.packs_per_step:
            raise CheckpointError(
                f"the data plan is not the one {end.checkpoint} was trained with (phase {last.label!r}):\n{diff}\n"
                "Undo the change (config.toml in the run folder has the old settings), or declare it: give data.phase "
                "a new label, and every unchanged stream resumes at its read position; to start from the beginning, "
                "give another job.dump_folder"
            )
        return last
    if wanted.label in (phase.label for phase in end.phases):
        raise CheckpointError(
            f"data.phase = {wanted.label!r}: that phase of the run has ended; {end.checkpoint} belongs to phase "
            f"{last.label!r}, which began at step {last.first_step:,}. Set data.phase = {last.label!r}, with its "
            "settings, to resume it, give an unused label to begin another phase, or set checkpoint.load_step to a "
            f"step up to {last.first_step:,} to drop phase {last.label!r}"
        )
    streams, retired = resume_streams(wanted.streams, end.streams())
    return replace(
        wanted,
        streams=streams,
        retired=retired,
        first_step=end.step,
        first_slot=end.next_slot,
        first_token=tokens_seen,
        parent=last.fingerprint,
    ).with_fingerprint()


def resume_streams(
    wanted: Sequence[StreamRecord], before: Sequence[StreamRecord]
) -> tuple[tuple[StreamRecord, ...], tuple[StreamRecord, ...]]:
    """The wanted streams with what was read of them, and the earlier streams that are not wanted."""
    known = {(stream.source, stream.language): stream for stream in before}
    streams = tuple(_resume_stream(stream, known.pop((stream.source, stream.language), None)) for stream in wanted)
    return streams, tuple(known.values())


def _resume_stream(wanted: StreamRecord, before: StreamRecord | None) -> StreamRecord:
    if before is None:
        return wanted
    differences = wanted.differences(before)
    if differences:
        return replace(wanted, status="restarted", reason="; ".join(differences))
    return replace(wanted, status="carried", seed=before.seed, segments=before.segments)
