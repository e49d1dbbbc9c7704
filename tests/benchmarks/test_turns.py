"""Processes that take turns: all are measured alike, and one that cannot run says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from benchmarks.suite import ratio_of, step_figures, trained_rate
from benchmarks.turns import Rounds, Variant, take_turns
from tests.support.bench_variant import NUM_READ_AHEAD, READ_SEC
from tests.support.runs import ROOT

WITHOUT_END = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts tests in the background has them ignore it
from benchmarks.turns import Variant, Rounds, take_turns
pair = [Variant(name, "", "tests.support.bench_variant", ("100",)) for name in ("one", "two")]
take_turns(pair, Rounds(1, 1, 10**9), lambda text: print(text, flush=True))
"""


pytestmark = pytest.mark.slow


def variant(name: str, *words: str) -> Variant:
    return Variant(name, name, "tests.support.bench_variant", words)


def test_each_variant_takes_the_steps_of_every_round_and_is_counted() -> None:
    told: list[str] = []
    turns = take_turns([variant("one", "100"), variant("two", "50")], Rounds(3, 2, 4), told.append)
    assert {name: len(turn.windows) for name, turn in turns.items()} == {"one": 4, "two": 4}
    assert turns["one"].warmup.num_steps == 3
    window = turns["two"].windows[-1]
    assert (window.num_steps, window.num_tokens, window.num_trained_tokens, window.num_pad_tokens) == (2, 100, 50, 2)
    figures = {figure.name: figure for figure in step_figures(turns["one"])}
    assert len(figures["tokens_per_sec_per_gpu"].values) == 4
    assert figures["pad_fraction"].median == 0.01
    assert len(ratio_of("r", "rate", turns["one"], turns["two"], trained_rate).values) == 4
    assert sum(text.startswith("round") for text in told) == 4


def test_what_is_read_ahead_is_not_read_while_the_other_has_its_turn() -> None:
    variants = [variant("reads", "1", "read"), variant("works", "1", "work")]
    windows = take_turns(variants, Rounds(NUM_READ_AHEAD + 2, 2, 5), lambda text: None)["reads"].windows
    assert sum(window.wall_sec for window in windows) >= (2 * len(windows) - 1) * READ_SEC


def test_a_variant_that_fails_ends_all_with_its_last_lines() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)two ended early.*no such store"):
        take_turns([variant("two", "50", "fail")], Rounds(1, 1, 1), lambda text: None)


def test_an_interrupted_runner_leaves_no_variant_behind() -> None:
    runner = subprocess.Popen([sys.executable, "-c", WITHOUT_END], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert runner.stdout is not None
    while not runner.stdout.readline().startswith("round 1 "):
        assert runner.poll() is None
    children = subprocess.run(["pgrep", "-P", str(runner.pid)], capture_output=True, text=True, check=True)
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=30)
    assert len(children.stdout.split()) == 2
    for child in map(int, children.stdout.split()):
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


@pytest.mark.slow
def test_ranks_of_one_variant_are_counted_together() -> None:
    ranks = Variant("two ranks", "", "tests.support.bench_variant", ("100",), world_size=2)
    (window,) = take_turns([ranks], Rounds(1, 3, 1), lambda text: None)["two ranks"].windows
    assert (window.num_steps, window.num_tokens) == (3, 600)
