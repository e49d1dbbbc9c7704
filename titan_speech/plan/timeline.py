"""Allocations and releases in order, as peaks: how much is held at most at each place of a step, and by what.

In: events of the ledger. Out: `Peak` of each place, by component. Components are looked up after the fact, since only
the end of a backward pass tells which of its results are gradients. A place is a phase and where in it a layer stands
(forward, last layer): what is held at one place grows by the same amount with each layer, while the fullest
place of all may be another one in a deeper model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    """A storage grew (or shrank, if negative) by so many bytes."""

    place: str
    key: int
    change: int


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a place."""

    place: str
    num_bytes: Mapping[str, int]
    """By component."""

    @property
    def phase(self) -> str:
        """forward, loss, backward or optimizer."""
        return self.place.partition(",")[0]

    @property
    def total(self) -> int:
        return sum(self.num_bytes.values())


def peaks(events: Iterable[Event], component_of: Mapping[int, str]) -> list[Peak]:
    """The fullest moment of every place, in the order they were reached."""
    held: dict[str, int] = {}
    total, best = 0, {}
    fullest: dict[str, Peak] = {}
    for event in events:
        component = component_of[event.key]
        held[component] = held.get(component, 0) + event.change
        total += event.change
        if total > best.get(event.place, -1):
            best[event.place] = total
            fullest[event.place] = Peak(event.place, {name: size for name, size in held.items() if size})
    return list(fullest.values())


def extended(shallow: Sequence[Peak], deeper: Sequence[Peak], more_layers: float) -> list[Peak]:
    """Peaks of a model with `more_layers` times as many layers above `shallow` as `deeper` has: sizes grow linearly."""
    by_place = {peak.place: peak for peak in deeper}
    return [_extended(peak, by_place[peak.place], more_layers) for peak in shallow]


def _extended(shallow: Peak, deeper: Peak, more_layers: float) -> Peak:
    names = dict.fromkeys([*shallow.num_bytes, *deeper.num_bytes])
    sizes = {}
    for name in names:
        first, second = shallow.num_bytes.get(name, 0), deeper.num_bytes.get(name, 0)
        sizes[name] = round(first + (second - first) * more_layers)
    return Peak(shallow.place, sizes)
