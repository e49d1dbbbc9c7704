"""Rewards from scores, and which pair a prompt gives."""

from __future__ import annotations

import numpy as np
import pytest

from titan_speech.align.answers import Answer, Answered
from titan_speech.align.rewards import (
    EQUAL_ANSWERS,
    EQUAL_REWARDS,
    LEFT_OUT,
    NOT_ENDED,
    NOT_SCORED,
    SMALL_MARGIN,
    Pair,
    Term,
    pick,
    reward,
)
from titan_speech.errors import DataError

TERMS = (Term("score", 1.0),)


def answer(score: float, *codes: int, stopped: bool = True) -> Answer:
    return Answer(np.array(codes or [round(score * 100)], np.uint16), stopped, {"score": score})


def test_a_reward_is_the_weighted_sum_of_scores_and_distances() -> None:
    terms = (Term.parse("loop=-2"), Term.parse("length_ratio@1.5=-1"))
    assert reward({"loop": 0.5, "length_ratio": 1.0}, terms, "p") == pytest.approx(-1.5)
    assert [str(term) for term in terms] == ["loop=-2", "length_ratio@1.5=-1"]


@pytest.mark.parametrize("text", ["loop", "loop=", "=1", "loop=nan", "loop=0", "loop@=1", "loop@x=1", "a b=1"])
def test_a_term_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=WEIGHT"):
        Term.parse(text)


def test_the_best_answer_is_chosen_and_the_worst_rejected() -> None:
    found = pick(Answered("p", (answer(0.3), answer(0.9), answer(0.1), answer(0.5))), TERMS, 0.1)
    assert isinstance(found, Pair)
    assert (found.chosen_reward, found.rejected_reward) == (0.9, 0.1)


def test_an_answer_that_was_cut_is_in_no_pair() -> None:
    found = pick(Answered("p", (answer(0.9, stopped=False), answer(0.5), answer(0.2))), TERMS, 0.1)
    assert isinstance(found, Pair)
    assert found.chosen_reward == 0.5


@pytest.mark.parametrize(
    ("answered", "reason"),
    [
        (Answered("p", (), "too long"), LEFT_OUT),
        (Answered("p", (answer(0.9), answer(0.5, stopped=False))), NOT_ENDED),
        (Answered("p", (answer(0.9), Answer(np.array([1], np.uint16), True, {"mos": 3.0}))), NOT_SCORED),
        (Answered("p", (answer(0.9, 1, 2), answer(0.5, 1, 2))), EQUAL_ANSWERS),
        (Answered("p", (answer(0.5, 1), answer(0.5, 2))), EQUAL_REWARDS),
        (Answered("p", (answer(0.5, 1), answer(0.55, 2))), SMALL_MARGIN),
    ],
)
def test_a_prompt_without_a_pair_says_why(answered: Answered, reason: str) -> None:
    assert pick(answered, TERMS, 0.1) == reason


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_names_prompt_and_score(value: float) -> None:
    with pytest.raises(DataError, match=r"prompt p: the score score is (nan|inf)"):
        pick(Answered("p", (answer(0.5, 1), Answer(np.array([2], np.uint16), True, {"score": value}))), TERMS, 0.1)


def test_a_score_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(DataError, match="no score wer; there are score"):
        reward({"score": 1.0}, (Term("wer", -1.0),), "p")
