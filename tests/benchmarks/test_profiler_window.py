"""Windows of the profiler: the first steps, then some of a steady state, and nothing in between."""

from __future__ import annotations

import pytest
from torch.profiler import ProfilerAction

from titan_speech.config.schema_operations import ProfilerConfig
from titan_speech.errors import ConfigError
from titan_speech.preflight.config_checks import load_config
from titan_speech.training.profiler import action

RECORD, SAVE, NONE, WARMUP = (
    ProfilerAction.RECORD,
    ProfilerAction.RECORD_AND_SAVE,
    ProfilerAction.NONE,
    ProfilerAction.WARMUP,
)


def test_two_windows_are_recorded_and_each_is_saved_at_its_end() -> None:
    table = ProfilerConfig(enable=True, first_steps=2, steady_from=5, steady_steps=3)
    assert [action(table, step) for step in range(-1, 10)] == [
        *(RECORD, RECORD, SAVE, NONE, NONE, WARMUP),
        *(RECORD, RECORD, SAVE, NONE, NONE),
    ]


def test_either_window_can_be_left_out() -> None:
    only_first = ProfilerConfig(first_steps=1, steady_from=3, steady_steps=0)
    only_steady = ProfilerConfig(first_steps=0, steady_from=2, steady_steps=1)
    assert [action(only_first, step) for step in range(5)] == [SAVE, NONE, NONE, NONE, NONE]
    assert [action(only_steady, step) for step in range(4)] == [NONE, WARMUP, SAVE, NONE]


def test_windows_that_overlap_are_refused() -> None:
    words = [
        "--job.config_file",
        "tests/assets/small.toml",
        "--profiler.first_steps",
        "4",
        "--profiler.steady_from",
        "4",
    ]
    with pytest.raises(ConfigError, match=r"profiler.steady_from.*more than profiler.first_steps = 4"):
        load_config(words)


def test_a_window_behind_the_run_is_refused() -> None:
    words = ["--job.config_file", "tests/assets/small.toml", "--profiler.enable", "true"]
    with pytest.raises(ConfigError, match=r"profiler.steady_from.*100.*steps are within the run's \d+"):
        load_config([*words, "--profiler.steady_from", "100"])
    load_config([*words, "--profiler.steady_from", "100", "--profiler.steady_steps", "0"])
