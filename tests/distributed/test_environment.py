"""Rank and world size from the launcher's variables, with and without a launcher."""

from __future__ import annotations

import os

import pytest

from titan_speech.distributed.environment import DistEnv, dist_env, set_single_process_defaults

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what a test sets is removed again
        monkeypatch.delenv(name)


def test_a_process_without_a_launcher_is_a_world_of_one() -> None:
    assert dist_env() == DistEnv(rank=0, local_rank=0, world_size=1, local_world_size=1)
    set_single_process_defaults()
    assert dist_env() == DistEnv(rank=0, local_rank=0, world_size=1, local_world_size=1)
    assert int(os.environ["MASTER_PORT"]) > 0


def test_the_launchers_variables_are_read_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    set_single_process_defaults()
    env = dist_env()
    assert env == DistEnv(rank=9, local_rank=1, world_size=16, local_world_size=8)
    assert not env.is_first
    assert not env.is_first_of_node
    assert "MASTER_PORT" not in os.environ
