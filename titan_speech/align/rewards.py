"""A reward from named scores, and the pair that a prompt's answers give.

In: the answers to a prompt with their scores. Out: the chosen and the rejected answer, or the reason why there is no
pair. The rules, in this order:

    1. answers that the model did not end are left out: a pair says that both end where they end; so are answers that
       lack a score of the reward
    2. of equal answers one is kept
    3. chosen is the greatest reward, rejected the smallest; of equal rewards the earlier answer
    4. a prompt whose rewards are all equal, or whose two rewards are less than the margin apart, gives no pair

A reward that is not a number ends the job: it would put one answer first or last by accident.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from titan_speech.align.answers import Answer, Answered
from titan_speech.errors import DataError

_TERM = re.compile(r"(?P<name>[A-Za-z_][\w./-]*)(@(?P<target>[^=@]+))?=(?P<weight>[^=@]+)", re.ASCII)


@dataclass(frozen=True)
class Term:
    """One score's part of a reward: its weight times the score, or times its distance from a target."""

    name: str
    weight: float
    target: float | None = None

    def __str__(self) -> str:
        target = "" if self.target is None else f"@{self.target:g}"
        return f"{self.name}{target}={self.weight:g}"

    @classmethod
    def parse(cls, text: str) -> Term:
        """NAME=WEIGHT or NAME@TARGET=WEIGHT.

        Raises:
            ValueError: it is neither.
        """
        match = _TERM.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            target = None if match["target"] is None else float(match["target"])
            term = cls(match["name"], float(match["weight"]), target)
            if not all(map(math.isfinite, (term.weight, target or 0.0))) or term.weight == 0:
                raise ValueError
        except ValueError:
            raise ValueError(f'found "{text}", expected NAME=WEIGHT or NAME@TARGET=WEIGHT, such as loop=-1') from None
        return term


def reward(scores: Mapping[str, float], terms: Sequence[Term], whose: str) -> float:
    """The sum of the terms.

    Args:
        scores: of one answer, by name.
        terms: of the reward.
        whose: the prompt, for messages.

    Raises:
        DataError: a score is missing or not a finite number.
    """
    total = 0.0
    for term in terms:
        if term.name not in scores:
            raise DataError(f"prompt {whose}: no score {term.name}; there are {', '.join(sorted(scores)) or 'none'}")
        value = scores[term.name]
        if not math.isfinite(value):
            raise DataError(
                f"prompt {whose}: the score {term.name} is {value}, not a finite number. Mend the scorer, or leave it "
                "out of the reward"
            )
        total += term.weight * (value if term.target is None else abs(value - term.target))
    return total


def has_scores(scores: Mapping[str, float], terms: Sequence[Term]) -> bool:
    """Whether an answer with these scores has every score of the reward."""
    return all(term.name in scores for term in terms)


@dataclass(frozen=True)
class Pair:
    """The chosen and the rejected answer to a prompt, with their rewards."""

    sample_id: str
    chosen: Answer
    rejected: Answer
    chosen_reward: float
    rejected_reward: float


LEFT_OUT, NOT_ENDED, NOT_SCORED, EQUAL_ANSWERS, EQUAL_REWARDS, SMALL_MARGIN = (
    "prompts too long for an answer",
    "fewer than two answers that the model ended",
    "fewer than two answers with every score of the reward",
    "equal answers",
    "equal rewards",
    "rewards closer than the margin",
)
"""Why prompts give no pair."""


def pick(answered: Answered, terms: Sequence[Term], margin: float) -> Pair | str:
    """The pair of a prompt, or why it has none.

    Args:
        answered: a prompt with its answers.
        terms: of the reward.
        margin: that the two rewards are apart at least.

    Raises:
        DataError: a score is missing or not a finite number.
    """
    if answered.left_out:
        return LEFT_OUT
    ended = [answer for answer in answered.answers if answer.stopped]
    if len(ended) < 2:
        return NOT_ENDED
    ended = [answer for answer in ended if has_scores(answer.scores, terms)]
    if len(ended) < 2:
        return NOT_SCORED
    different = list({answer.codes_F.tobytes(): answer for answer in reversed(ended)}.values())[::-1]
    if len(different) < 2:
        return EQUAL_ANSWERS
    rewards = [reward(answer.scores, terms, answered.sample_id) for answer in different]
    best = max(range(len(different)), key=lambda i: (rewards[i], -i))
    worst = min(range(len(different)), key=lambda i: (rewards[i], i))
    if rewards[best] == rewards[worst]:
        return EQUAL_REWARDS
    if rewards[best] - rewards[worst] < margin:
        return SMALL_MARGIN
    return Pair(answered.sample_id, different[best], different[worst], rewards[best], rewards[worst])
