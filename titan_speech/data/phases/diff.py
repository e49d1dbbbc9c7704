"""What changed between two data plans, in words.

In: the phase a checkpoint lies in and the one the configuration asks for. Out: lines such as

    seq_len 2,048 -> 4,096
    source tts: share 10 % -> 35 %
    source speech, language hi: parts changed: wild.hi.speech 1f2e.. -> 77aa..

Changes that all languages of a source have in common are told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from titan_speech.data.phases.carry import Phase, StreamRecord

SHARE_TOLD = 5e-4
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
            if abs(old[name] - new[name]) > SHARE_TOLD:
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
