"""Phases: stretches of a run with one data plan each, and how a stream is carried from one to the next.

In: where the phase before ended (`PhaseEnd`) and what this configuration reads. Out: the `Phase` that begins or goes
on, with each stream's legs: how many packs of it were read under which rules, since its first pack.

    phase "start"        slots 0..       speech.hi: 4,096 packs of 2,048      legs ()
    phase "more-hindi"   slots 6,554..   speech.hi: goes on at 4,096 packs    legs ((2048, 4096),)
    phase "long"         slots 9,831..   with seq_len 4,096                   legs ((2048, 7373),)

Positions follow from legs in closed form (lanes.py), so a phase is a few kB whatever was read, and resuming in it needs
nothing of the phases before. A stream is carried when its source, language, task and files are the same; one whose data
changed starts at its beginning, and so do pairs and stitched segments under another sequence length, to which they are
fitted. One that is left out keeps its legs for when it comes back. Seeds concern streams that start: a carried stream
keeps the order it began with.

Counted are slots: a phase ends where its last checkpoint that is gone on from ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from titan_speech.data.order import SlotOrder, order_of_units
from titan_speech.data.packing import PackingRules
from titan_speech.errors import CheckpointError

Status = Literal["new", "carried", "restarted"]


@dataclass(frozen=True)
class Segment:
    """Packs of a stream that were read under one set of rules."""

    rules: PackingRules
    num_packs: int


@dataclass(frozen=True)
class PartRecord:
    """A part of a store that a stream reads."""

    name: str
    fingerprint: str
    """Of all its files."""
    held_out: str = ""
    """Of the samples that are never read."""


@dataclass(frozen=True, kw_only=True)
class StreamRecord:
    """One source in one language, as a phase reads it."""

    source: str
    language: str
    settings: dict[str, str]
    """What makes documents of its samples: task, transcript and so on. With the parts it decides what carries over."""
    train_on: str
    parts: tuple[PartRecord, ...]
    store: str
    """Where the store lies; told in messages only."""
    share: float
    """Share of the phase's tokens."""
    units: int
    """Share of the phase's packs, in 1/16 pack a cycle."""
    rules: PackingRules
    epoch_packs: float
    epoch_tokens: int
    seed: int = 0
    """The seed its order began with."""
    legs: tuple[Segment, ...] = ()
    """What was read before this phase."""
    status: Status = "new"
    reason: str = ""
    """What changed, where it is restarted."""

    @property
    def name(self) -> str:
        return f"{self.source}.{self.language}"

    def after(self, num_packs: int) -> StreamRecord:
        """With this phase's packs among the legs; legs under equal rules are one."""
        *earlier, last = (*self.legs, Segment(self.rules, num_packs))
        if earlier and earlier[-1].rules == last.rules:
            last = Segment(last.rules, earlier.pop().num_packs + num_packs)
        return replace(self, legs=(*earlier, last) if last.num_packs else tuple(earlier))

    def differences(self, other: StreamRecord) -> list[str]:
        """What keeps this stream from going on where the other stands."""
        found = [
            f"{key} {other.settings.get(key, 'none')} -> {self.settings.get(key, 'none')}"
            for key in sorted({*self.settings, *other.settings})
            if self.settings.get(key) != other.settings.get(key)
        ]
        if self.parts != other.parts:
            found.append(parts_changed(other.parts, self.parts))
        return found


def parts_changed(before: Sequence[PartRecord], after: Sequence[PartRecord]) -> str:
    """The first part that differs, with its fingerprints."""
    old, new = ({part.name: part for part in parts} for parts in (before, after))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            sides = [
                "absent"
                if part is None
                else f"{part.fingerprint}{', held out ' + part.held_out if part.held_out else ''}"
                for part in (old.get(name), new.get(name))
            ]
            return f"parts changed: {name} {sides[0]} -> {sides[1]}"
    return "parts in another order"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a run with one data plan; `fingerprint` names its content."""

    label: str
    plan: str
    """Fingerprint of the data plan."""
    seq_len: int
    packs_per_step: int
    settings: dict[str, str]
    """What concerns all streams and changes what is read: seed, too_long and so on."""
    streams: tuple[StreamRecord, ...]
    retired: tuple[StreamRecord, ...] = ()
    """Streams of earlier phases that are not read now."""
    first_step: int = 0
    first_slot: int = 0
    first_token: int = 0
    """Tokens the run had trained on when the phase began."""
    parent: str = ""
    """Fingerprint of the phase before; of the first phase, of the one it continues from in another run."""
    continues: str = ""
    """Checkpoint of another run whose streams go on here."""
    fingerprint: str = field(default="", compare=False)

    def sealed(self) -> Phase:
        """With its fingerprint: over what decides the data from here on, not over paths and figures for people."""
        content = {
            "identity": [self.label, self.plan, self.first_step, self.first_slot, self.packs_per_step, self.parent],
            "streams": [[s.name, s.seed, [asdict(leg) for leg in s.legs]] for s in (*self.streams, *self.retired)],
        }
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return replace(self, fingerprint=hashlib.sha256(canonical.encode()).hexdigest()[:16])

    def slots(self, step: int) -> range:
        """The global slots of one step, steps counted from 0."""
        first = self.first_slot + (step - self.first_step) * self.packs_per_step
        return range(first, first + self.packs_per_step)

    def order(self) -> SlotOrder:
        sources = list(dict.fromkeys(stream.source for stream in self.streams))
        languages = sorted({stream.language for stream in self.streams})
        return order_of_units(
            np.array([sources.index(stream.source) for stream in self.streams]),
            np.array([languages.index(stream.language) for stream in self.streams]),
            np.array([stream.units for stream in self.streams]),
        )

    def streams_after(self, num_slots: int) -> tuple[StreamRecord, ...]:
        """All streams with what that many slots of this phase read, those that it left out after them."""
        num_packs = self.order().num_packs(num_slots)
        read = (stream.after(number) for stream, number in zip(self.streams, num_packs, strict=True))
        return (*read, *self.retired)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def phase_from_json(text: str) -> Phase:
    """Raises KeyError, TypeError or ValueError for what is no phase."""
    content: dict[str, Any] = json.loads(text)
    streams = {name: tuple(_stream(stream) for stream in content[name]) for name in ("streams", "retired")}
    phase = Phase(**{**content, **streams}).sealed()
    if phase.fingerprint != content["fingerprint"]:
        raise ValueError(f"its content gives fingerprint {phase.fingerprint}, it says {content['fingerprint']}")
    return phase


def _stream(content: dict[str, Any]) -> StreamRecord:
    return StreamRecord(
        **{
            **content,
            "parts": tuple(PartRecord(**part) for part in content["parts"]),
            "rules": PackingRules(**content["rules"]),
            "legs": tuple(Segment(PackingRules(**leg["rules"]), leg["num_packs"]) for leg in content["legs"]),
        }
    )


@dataclass(frozen=True)
class PhaseEnd:
    """A checkpoint, as far as data goes: its run's phases up to it."""

    checkpoint: str
    step: int
    phases: tuple[Phase, ...]
    """In their order; the checkpoint lies in the last."""

    @property
    def last(self) -> Phase:
        return self.phases[-1]

    @property
    def next_slot(self) -> int:
        return self.last.slots(self.step).start

    def streams(self) -> tuple[StreamRecord, ...]:
        return self.last.streams_after(self.next_slot - self.last.first_slot)


def first_phase(wanted: Phase, continued: PhaseEnd | None = None) -> Phase:
    """The phase a fresh run begins with; `continued` is a checkpoint of the run before it."""
    if continued is None:
        return wanted.sealed()
    streams, retired = resume_positions(wanted.streams, continued.streams())
    return replace(
        wanted, streams=streams, retired=retired, parent=continued.last.fingerprint, continues=continued.checkpoint
    ).sealed()


def phase_at(wanted: Phase, end: PhaseEnd, diff: str, tokens_seen: int) -> Phase:
    """The phase in which a run goes on from its own checkpoint.

    Raises:
        CheckpointError: the plan changed and no new phase is declared, or the label was used before.
    """
    last = end.last
    if wanted.label == last.label:
        if wanted.plan != last.plan or wanted.packs_per_step != last.packs_per_step:
            raise CheckpointError(_undeclared(end, diff))
        return last
    if wanted.label in (phase.label for phase in end.phases):
        raise CheckpointError(
            f"data.phase = {wanted.label!r}: that phase of the run has ended; {end.checkpoint} lies in phase "
            f"{last.label!r}, begun at step {last.first_step:,}. Set data.phase = {last.label!r}, with its settings, "
            "to go on, give a label that was not used yet to begin another phase, or set checkpoint.load_step to a "
            f"step up to {last.first_step:,} to leave phase {last.label!r} out"
        )
    streams, retired = resume_positions(wanted.streams, end.streams())
    return replace(
        wanted,
        streams=streams,
        retired=retired,
        first_step=end.step,
        first_slot=end.next_slot,
        first_token=tokens_seen,
        parent=last.fingerprint,
    ).sealed()


def _undeclared(end: PhaseEnd, diff: str) -> str:
    return (
        f"the data plan is not the one {end.checkpoint} was trained with (phase {end.last.label!r}):\n{diff}\n"
        "Undo the change (config.toml in the run folder has the old settings), or declare it: give data.phase a new "
        "label, and every stream that stays goes on where it stands; to start anew, give another job.dump_folder"
    )


def resume_positions(
    wanted: Sequence[StreamRecord], before: Sequence[StreamRecord]
) -> tuple[tuple[StreamRecord, ...], tuple[StreamRecord, ...]]:
    """The wanted streams with what was read of them, and the streams that are left out now."""
    known = {(stream.source, stream.language): stream for stream in before}
    streams = tuple(_carried(stream, known.pop((stream.source, stream.language), None)) for stream in wanted)
    return streams, tuple(known.values())


def _carried(wanted: StreamRecord, before: StreamRecord | None) -> StreamRecord:
    if before is None:
        return wanted
    differences = wanted.differences(before)
    if differences:
        return replace(wanted, status="restarted", reason="; ".join(differences))
    return replace(wanted, status="carried", seed=before.seed, legs=before.legs)
