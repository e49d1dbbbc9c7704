"""The account of a run from records of its processes: totals, lost work, restarts, world sizes, stragglers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from titan_speech.ledger.goodput import account
from titan_speech.ledger.records import (
    COLLECTIVE_WAIT,
    COMPLETE,
    KILLED,
    LOST_WORK,
    RESTART,
    START,
    STEP,
    STOPPED,
    LedgerSpan,
    Process,
    ledger_file,
    read_ledger,
)


def process(
    rank: int, start: int, began: float, spans: list[tuple[int, int, dict[str, float]]], how: str, from_step: int = 0
) -> Process:
    """Spans follow each other without a second between them."""
    at, made = began, []
    for first, last, seconds in spans:
        made.append(LedgerSpan(at, at + sum(seconds.values()), first, last, seconds))
        at = made[-1].until_sec
    return Process(rank, start, 2, f"node-{rank}", from_step, began, at, how, tuple(made))


def test_steps_after_the_checkpoint_of_the_next_start_are_lost_and_the_gap_is_restart() -> None:
    killed = process(0, 0, 100, [(1, 10, {START: 5, STEP: 20}), (11, 17, {STEP: 14, COLLECTIVE_WAIT: 1})], KILLED)
    resumed = process(0, 1, 150, [(11, 20, {START: 4, STEP: 20})], COMPLETE, from_step=10)
    found = account([killed, resumed])
    assert found.seconds[STEP] == 40
    assert found.seconds[LOST_WORK] == 15
    assert found.seconds[RESTART] == pytest.approx(10 + 4)  # killed at 140, again at 150
    assert found.seconds[START] == 5
    assert found.total_sec == 174 - 100
    assert found.unclassified_sec == pytest.approx(0)
    assert found.goodput == pytest.approx(40 / 74)
    assert [one.lost_steps for one in found.starts] == [7, 0]


def test_a_span_that_contains_the_step_resumed_from_is_split() -> None:
    found = account(
        [process(0, 0, 0, [(1, 10, {STEP: 10})], KILLED), process(0, 1, 10, [(9, 10, {STEP: 2})], COMPLETE, 8)]
    )
    assert found.seconds[LOST_WORK] == pytest.approx(2)
    assert found.seconds[STEP] == pytest.approx(10)


def test_the_time_after_a_stop_in_order_belongs_to_nobody() -> None:
    found = account(
        [
            process(0, 0, 0, [(1, 8, {STEP: 8})], STOPPED),
            process(0, 1, 9000, [(9, 9, {START: 3, STEP: 1})], COMPLETE, 8),
        ]
    )
    assert found.total_sec == 12
    assert found.seconds[RESTART] == 3


def test_a_rank_that_is_new_waited_since_the_start_before_it() -> None:
    """World sizes 1, 2, 1, 2: rank 1 is there twice, and its absence is not its time."""
    processes = [
        process(0, 0, 0, [(1, 5, {STEP: 10})], KILLED),
        *(process(rank, 1, 12, [(6, 9, {STEP: 8})], KILLED, from_step=5) for rank in (0, 1)),
        process(0, 2, 25, [(10, 19, {STEP: 10})], KILLED, from_step=9),
        *(process(rank, 3, 36, [(20, 20, {STEP: 1})], COMPLETE, from_step=19) for rank in (0, 1)),
    ]
    found = account(processes)
    assert found.by_rank[0][RESTART] == 2 + 5 + 1
    assert found.by_rank[1][RESTART] == 2 + 1
    assert found.unclassified_sec == pytest.approx(0)
    assert [one.world_size for one in found.starts] == [2] * 4
    assert sum(one.total_sec for one in found.starts) == found.total_sec


def test_the_straggler_is_the_rank_whose_own_steps_are_slow_not_those_that_wait() -> None:
    processes = [
        process(rank, 0, 0, [(1, 10, {STEP: own, COLLECTIVE_WAIT: 30 - own})], COMPLETE)
        for rank, own in enumerate((20.0, 20.0, 30.0))
    ]
    first, *others = account(processes).starts[0].stragglers
    assert (first.rank, first.node, first.score) == (2, "node-2", pytest.approx(1.5))
    assert first.excess_sec[STEP] == pytest.approx(1.0)
    assert {other.score for other in others} == {1.0}


def test_unclassified_is_what_a_process_lived_longer_than_its_classes() -> None:
    whole = process(0, 0, 0, [(1, 10, {STEP: 10})], COMPLETE)
    assert account([replace(whole, ended_sec=10.5)]).unclassified_sec == 0.5


def test_cut_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    file = ledger_file(tmp_path, 0)
    file.parent.mkdir()
    begin = {"kind": "begin", "rank": 0, "start": 0, "world_size": 1, "node": "n", "from_step": 0, "at": 100.0}
    span = {"kind": "span", "start": 0, "first_step": 1, "last_step": 2, "until": 103.0, "sec": {STEP: 2.5, "x": 1}}
    huge = 10**400
    others = ({**span, "until": huge}, {**span, "sec": {STEP: math.inf}}, {**span, "start": 7})
    lines = [json.dumps(one) for one in (begin, {"kind": "begin"}, [], span, {**begin, "rank": huge}, *others)]
    file.write_text("\n".join([*lines[:3], "{" * 100_000, *lines[3:], lines[3][:40]]))
    (found,) = read_ledger(tmp_path)
    assert found.spans == (LedgerSpan(100.0, 103.0, 1, 2, {STEP: 2.5}),)
    assert account([found]).unclassified_sec == pytest.approx(0.5)
    assert account([]).goodput == 0
