"""Phases on disk: beside checkpoints, so that one can be resumed alone, and in the run folder, to be looked at.

In: the phases of a run. Out: one JSON file for each phase, called by its fingerprint, and beside checkpoints one that
names the phase of each step. Files are written whole or not at all, and never changed.

    RUN/data_phases/3f...json                         every phase the run began
    RUN/checkpoint/data_phases/3f...json, step-40.json   those of its checkpoints

What changed between two data plans, in words.

In: the phase a checkpoint lies in and the one the configuration asks for. Out: lines such as

    seq_len 2,048 -> 4,096
    source tts: share 10 % -> 35 %
    source speech, language hi: parts changed: wild.hi.speech 1f2e.. -> 77aa..

Changes that all languages of a source have in common are told once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from titan_speech.data.phases import Phase, PhaseEnd, StreamRecord, phase_from_json
from titan_speech.errors import CheckpointError

PHASES_DIR = "data_phases"
_FINGERPRINT = re.compile("[0-9a-f]{8,64}")


def write_phases(folder: Path, phases: Sequence[Phase]) -> None:
    """Into `folder`/data_phases, those that are not there yet."""
    for phase in phases:
        path = folder / PHASES_DIR / f"{phase.fingerprint}.json"
        if not path.exists():
            _write(path, phase.to_json())


def write_step(checkpoint: Path, step: int, phases: Sequence[Phase]) -> None:
    """The record of a checkpoint (.../step-N), before the checkpoint itself."""
    write_phases(checkpoint.parent, phases)
    record = {"step": step, "phase": phases[-1].fingerprint, "label": phases[-1].label}
    _write(checkpoint.parent / PHASES_DIR / f"{checkpoint.name}.json", json.dumps(record) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def phase_end(checkpoint: Path) -> PhaseEnd | None:
    """The phases up to a checkpoint (.../step-N); None where no record lies beside it.

    Raises:
        CheckpointError: a record is damaged or a phase's file is absent.
    """
    path = checkpoint.parent / PHASES_DIR / f"{checkpoint.name}.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        step, fingerprint = int(record["step"]), str(record["phase"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); restore it, or load another checkpoint") from error
    return PhaseEnd(str(checkpoint), step, read_phases(path.parent, fingerprint))


def read_phases(folder: Path, fingerprint: str) -> tuple[Phase, ...]:
    """A phase of `folder` and those of its run before it, in their order."""
    chain = [read_phase(_phase_path(folder, fingerprint))]
    while chain[0].parent and not chain[0].continues:
        chain.insert(0, read_phase(_phase_path(folder, chain[0].parent)))
    return tuple(chain)


def _phase_path(folder: Path, fingerprint: str) -> Path:
    """A fingerprint read from a record becomes a file name here."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise CheckpointError(f"a record in {folder} names the phase {fingerprint!r}, expected a fingerprint (0-9a-f)")
    return folder / f"{fingerprint}.json"


def read_phase(path: Path) -> Phase:
    try:
        return phase_from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: it says where each data stream stood; copy {path.parent.name} along with checkpoints"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it from where the run came from") from error


def continued_from(folder: Path) -> PhaseEnd:
    """Where the run in `folder` stands: its newest complete checkpoint, or `folder` itself if that is one (.../step-N).

    Raises:
        CheckpointError: there is none, or none with a record of its data.
    """
    where = f"data.continue_from = {str(folder)!r}"
    checkpoint = folder if (folder / ".metadata").is_file() else newest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(
            f"{where}: no complete checkpoint there; give a run folder or a checkpoint (.../checkpoint/step-N)"
        )
    end = phase_end(checkpoint.absolute())
    if end is None:
        raise CheckpointError(
            f"{where}: {checkpoint} has no {PHASES_DIR}/{checkpoint.name}.json beside it, which says how far each "
            "stream was read; copy it along, or leave data.continue_from out to read every stream from its beginning"
        )
    return end


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a run folder or a folder of checkpoints."""
    found = [path.parent for pattern in ("step-*", "*/step-*") for path in folder.glob(f"{pattern}/.metadata")]
    numbered = [path for path in found if path.name.removeprefix("step-").isdecimal()]
    return max(numbered, key=lambda path: int(path.name.removeprefix("step-")), default=None)


MIN_SHARE_SHOWN = 5e-4
"""Smaller changes of a share are told as quotas."""
MAX_LINES = 20


def phase_diff(before: Phase, after: Phase) -> str:
    lines = list(dict.fromkeys([*_settings(before, after), *_streams(before, after), *_shares(before, after)]))
    if not lines:
        quotas = sum(_units(before).get(name) != units for name, units in _units(after).items())
        lines = [f"packs a cycle of {quotas:,} streams" if quotas else "the version of the data order"]
    rest = len(lines) - MAX_LINES
    lines = lines[:MAX_LINES] + ([f"and {rest:,} more changes"] if rest > 0 else [])
    return "\n".join(f"  {line}" for line in lines)


def _settings(before: Phase, after: Phase) -> Iterator[str]:
    if before.seq_len != after.seq_len:
        yield f"seq_len {before.seq_len:,} -> {after.seq_len:,}"
    elif before.packs_per_step != after.packs_per_step:
        yield f"packs a step {before.packs_per_step:,} -> {after.packs_per_step:,}"
    for key in dict.fromkeys([*before.settings, *after.settings]):
        old, new = before.settings.get(key, "none"), after.settings.get(key, "none")
        if old != new:
            yield f"{key} {old} -> {new}"


def _streams(before: Phase, after: Phase) -> Iterator[str]:
    old, new = ({(s.source, s.language): s for s in phase.streams} for phase in (before, after))
    old_sources, new_sources = ({source for source, _ in streams} for streams in (old, new))
    for source in sorted(old_sources ^ new_sources):
        yield f"source {source}: {'left out' if source in old_sources else 'added'}"
    for source, language in sorted({*old, *new}):
        if source not in old_sources & new_sources:
            continue
        before_it, after_it = old.get((source, language)), new.get((source, language))
        if before_it is None or after_it is None:
            yield f"source {source}: language {language} {'added' if before_it is None else 'left out'}"
        else:
            yield from _stream(before_it, after_it)


def _stream(old: StreamRecord, new: StreamRecord) -> Iterator[str]:
    if old.store != new.store and old.parts != new.parts:
        yield f"source {new.source}: store {old.store} -> {new.store}"
    if old.train_on != new.train_on:
        yield f"source {new.source}: train_on {old.train_on} -> {new.train_on}"
    for difference in new.differences(old):
        is_of_part = difference.startswith("parts")
        yield f"source {new.source}{f', language {new.language}' if is_of_part else ''}: {difference}"


def _shares(before: Phase, after: Phase) -> Iterator[str]:
    for what, key in (("source", _source), ("language", _language)):
        old, new = _sums(before, key), _sums(after, key)
        for name in sorted(old.keys() & new.keys()):
            if abs(old[name] - new[name]) > MIN_SHARE_SHOWN:
                yield f"{what} {name}: share {100 * old[name]:.3g} % -> {100 * new[name]:.3g} %"


def _sums(phase: Phase, key: Callable[[StreamRecord], str]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for stream in phase.streams:
        sums[key(stream)] = sums.get(key(stream), 0.0) + stream.share
    return sums


def _source(stream: StreamRecord) -> str:
    return stream.source


def _language(stream: StreamRecord) -> str:
    return stream.language


def _units(phase: Phase) -> dict[str, int]:
    return {stream.name: stream.units for stream in phase.streams}
