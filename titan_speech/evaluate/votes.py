"""What listeners preferred: Bradley-Terry strengths of systems from their votes on blind pairs.

In: the key of a listening page (which system was left and right in each trial) and the votes of its listeners. Out: for
each system its strength in logits, with an interval, and the chance that it is preferred to another. The strength of a
system is such that i is preferred to j with probability 1 / (1 + exp(s_j - s_i)) (Bradley and Terry, 1952); a tie is
half a vote for each. Strengths sum to 0. Half a vote each way is added to every pair that was heard, so that a system
that won everything has a finite strength. Intervals are of 1,000 bootstraps over listeners and, within each, trials.

Shapes: S systems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import DataError
from titan_speech.utils.json_text import read_json_file

CHOICES = {"left": 1.0, "right": 0.0, "tie": 0.5}
"""What a choice counts for the system on the left."""
NUM_BOOTSTRAPS, NUM_ITERATIONS, PRIOR_VOTES = 1000, 2000, 0.5


@dataclass(frozen=True)
class Trial:
    """One pair of clips."""

    prompt: str
    left: str
    right: str
    """Systems."""


@dataclass(frozen=True)
class Study:
    """The key of a listening page."""

    id: str
    systems: tuple[str, ...]
    trials: Mapping[str, Trial]


@dataclass(frozen=True)
class Vote:
    """A choice of one listener."""

    listener: str
    trial: Trial
    choice: str
    """left, right or tie."""


@dataclass(frozen=True)
class Strength:
    """How a system was liked."""

    system: str
    logits: float
    low: float
    high: float
    wins: float
    """Votes for it; ties count half."""
    num_votes: int


def read_study(path: Path) -> Study:
    """The key that `evaluate listen` wrote.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        content = read_json_file(path)
        trials = {str(id_): Trial(*map(str, trial)) for id_, trial in content["trials"].items()}
        systems = tuple(map(str, content["systems"]))
        if any({trial.left, trial.right} - set(systems) for trial in trials.values()):
            raise ValueError("a trial names a system that is not listed")
        return Study(str(content["id"]), systems, trials)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no key of a listening page ({error!r}); evaluate listen writes KEY.json") from error


def read_votes(path: Path, study: Study) -> list[Vote]:
    """The votes of one listener, as the page saves them.

    Raises:
        DataError: the file is damaged, or of another page.
    """
    try:
        content: Any = read_json_file(path)
        if content["study"] != study.id:
            raise DataError(f"{path} has votes of the page {content['study']!r}, the key is of {study.id!r}")
        unknown = [id_ for id_, choice in content["votes"].items() if id_ not in study.trials or choice not in CHOICES]
        if unknown:
            raise ValueError(f"no such trial or choice: {unknown[0]!r}")
        listener = str(content["listener"])
        return [Vote(listener, study.trials[id_], choice) for id_, choice in content["votes"].items()]
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} has no votes of a listening page ({error!r})") from error


def strengths(study: Study, votes: Sequence[Vote], seed: int = 0) -> list[Strength]:
    """Strengths of all systems, the best first.

    Args:
        study: the key.
        votes: of all listeners.
        seed: of the bootstrap.

    Raises:
        DataError: there is no vote, or the pairs do not connect all systems.
    """
    if not votes:
        raise DataError("there are no votes; listeners save them at the end of the page")
    wins_SS = _wins(study, votes)
    _check_connected(study, wins_SS)
    heard_SS = (wins_SS + wins_SS.T) > 0
    fitted_S = fit(wins_SS, heard_SS)
    by_listener: dict[str, list[Vote]] = {}
    for vote in votes:
        by_listener.setdefault(vote.listener, []).append(vote)
    groups, random = list(by_listener.values()), np.random.default_rng(seed)
    drawn_RS = np.array([fit(_wins(study, _resampled(groups, random)), heard_SS) for _ in range(NUM_BOOTSTRAPS)])
    low_S, high_S = np.quantile(drawn_RS, (0.025, 0.975), axis=0)
    found = [
        Strength(
            system,
            float(fitted_S[place]),
            float(low_S[place]),
            float(high_S[place]),
            float(wins_SS[place].sum()),
            round(wins_SS[place].sum() + wins_SS[:, place].sum()),
        )
        for place, system in enumerate(study.systems)
    ]
    return sorted(found, key=lambda one: -one.logits)


def preference(one: Strength, other: Strength) -> float:
    """The chance that a listener prefers `one` to `other`."""
    return 1 / (1 + math.exp(other.logits - one.logits))


def fit(wins_SS: NDArray[np.float64], heard_SS: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Strengths in logits of the greatest likelihood, by Hunter's (2004) minorization; they sum to 0.

    Args:
        wins_SS: votes for the row's system against the column's.
        heard_SS: pairs of the study that were heard, which connect all systems. In a resampling of the votes some may
            have none; half a vote each way keeps their systems on one scale.
    """
    wins_SS = wins_SS + PRIOR_VOTES * heard_SS
    games_SS = wins_SS + wins_SS.T
    won_S, power_S = wins_SS.sum(1), np.ones(len(wins_SS))
    for _ in range(NUM_ITERATIONS):
        lost_S = (games_SS / (power_S[:, None] + power_S[None, :])).sum(1)
        before_S, power_S = power_S, np.where(lost_S > 0, won_S / np.maximum(lost_S, 1e-12), power_S)
        power_S /= np.exp(np.log(power_S).mean())
        if np.abs(power_S / before_S - 1).max() < 1e-6:
            break
    return np.log(power_S)


def _wins(study: Study, votes: Sequence[Vote]) -> NDArray[np.float64]:
    place = {system: number for number, system in enumerate(study.systems)}
    wins_SS = np.zeros((len(place), len(place)))
    for vote in votes:
        left, right, share = place[vote.trial.left], place[vote.trial.right], CHOICES[vote.choice]
        wins_SS[left, right] += share
        wins_SS[right, left] += 1 - share
    return wins_SS


def _resampled(groups: Sequence[Sequence[Vote]], random: np.random.Generator) -> list[Vote]:
    listeners = [groups[place] for place in random.integers(0, len(groups), len(groups))]
    return [votes[place] for votes in listeners for place in random.integers(0, len(votes), len(votes))]


def _check_connected(study: Study, wins_SS: NDArray[np.float64]) -> None:
    reached, heard_SS = {0}, (wins_SS + wins_SS.T) > 0
    while more := {int(other) for one in reached for other in np.flatnonzero(heard_SS[one])} - reached:
        reached |= more
    missing = [system for place, system in enumerate(study.systems) if place not in reached]
    if missing:
        raise DataError(f"no vote compares {', '.join(missing)} with {study.systems[0]}; more votes are needed")
