"""Kills at random instants, some in the middle of a save, with another number of processes each time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.slow.random_kills import Killing, kills
from tests.warm import start_warm

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
