"""Kills at random instants, some in the middle of a save, with another number of processes each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.slow.random_kills import Killing, kills
from tests.slow.run_comparison import have_same_packs
from tests.support.warm import start_warm

FINAL_LOSS_TOLERANCE = 1e-4
"""Relative; other world sizes add in another order, and training amplifies that from step to step."""


@pytest.mark.slow
def test_five_kills_leave_the_data_of_every_step_and_the_final_loss_as_they_were(tmp_path: Path) -> None:
    killing = Killing(
        *(tmp_path, 5, (1, 2), random.Random(5)), start=start_warm, start_up_sec=2.0, most_steps=2, is_open_ended=True
    )
    lives, comparison = kills(killing)
    assert len(lives) == 5
    assert comparison.same_pack_in_every_slot_of_every_step
    assert comparison.same_tokens_of_each_group_in_every_step
    assert comparison.relative_gap_of_the_final_loss <= FINAL_LOSS_TOLERANCE


@pytest.mark.slow
def test_kills_at_one_world_size_change_nothing_to_the_last_bit(tmp_path: Path) -> None:
    _, comparison = kills(Killing(tmp_path, 5, (2,), random.Random(6)))
    assert comparison.equal_to_the_last_bit


def test_a_pack_that_differs_or_is_missing_is_found() -> None:
    whole = {1: {step: {slot: f"{slot}" for slot in range(3 * step, 3 * step + 3)} for step in (1, 2, 3)}}
    first, second = {step: whole[1][step] for step in (1, 2)}, {step: whole[1][step] for step in (2, 3)}
    assert have_same_packs({1: first, 2: second}, whole)
    assert have_same_packs({1: {**first, 3: {9: "9"}}, 2: second}, whole)  # killed in the middle of step 3
    assert not have_same_packs({1: {**first, 3: {9: "8"}}, 2: second}, whole)
    assert not have_same_packs({1: first, 2: {2: whole[1][2], 3: {9: "9", 10: "10"}}}, whole)
    assert not have_same_packs({1: {**first, 4: {12: "12"}}, 2: second}, whole)
