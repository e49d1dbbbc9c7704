"""The clock: every second in one class, innermost part first; suspension, waits, compilation."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from titan_speech.ledger import clock as clock_module
from titan_speech.ledger.clock import UNCLASSIFIED, BlockedTime, Clock, watch_compilation
from titan_speech.ledger.records import (
    COLLECTIVE_WAIT,
    COMPILE,
    DATA_WAIT,
    IDLE,
    SAVE_STALL,
    START,
    STEP,
)


class FakeTime:
    """Times that the test sets."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.cpu


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    some = FakeTime()
    monkeypatch.setattr(clock_module, "time", some)
    return some


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the blocked time of the main thread."""
    total = [0.0]
    monkeypatch.setattr(clock_module, "BlockedTime", lambda: lambda: total[0])
    return lambda seconds: total.__setitem__(0, seconds)


def positive(found: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if value}


def test_the_innermost_part_counts_and_no_second_counts_twice(fake: FakeTime) -> None:
    clock = Clock(process_age_sec=7)
    fake.now = 1
    clock.settle_in(UNCLASSIFIED)
    with clock.part(STEP):
        fake.now = 3
        with clock.part(DATA_WAIT):
            fake.now = 7
        fake.now = 8
    fake.now = 8.5
    found = clock.seconds()
    assert positive(found) == {START: 8, STEP: 3, DATA_WAIT: 4, UNCLASSIFIED: 0.5}
    assert sum(found.values()) == 7 + 8.5


def fails_in(clock: Clock, fake: FakeTime) -> None:
    with clock.part(SAVE_STALL):
        fake.now = 5
        raise KeyError


def test_a_part_that_raises_has_ended(fake: FakeTime) -> None:
    clock = Clock(process_age_sec=0)
    with pytest.raises(KeyError):
        fails_in(clock, fake)
    fake.now = 6
    assert positive(clock.seconds()) == {SAVE_STALL: 5, START: 1}


@pytest.mark.parametrize("woken_first", [True, False])
def test_a_suspended_process_is_idle_whoever_wakes_first(fake: FakeTime, woken_first: bool) -> None:
    clock = Clock(process_age_sec=0)
    clock.wake()
    clock.enter(STEP)
    fake.now = 10.2  # suspended for 10 s, 0.2 s after the last wake-up
    fake.cpu = 0.1
    if woken_first:
        clock.wake()
    clock.leave()
    clock.enter(DATA_WAIT)
    fake.now = 10.3
    if not woken_first:
        clock._woken_sec += 0.1  # its wake-up was due at 0.3
        clock.wake()
    assert positive(clock.seconds()) == pytest.approx({STEP: 0.2, DATA_WAIT: 0.1, IDLE: 10})


def test_a_process_that_computes_without_letting_the_thread_wake_is_not_idle(fake: FakeTime) -> None:
    clock = Clock(process_age_sec=0)
    fake.now = fake.cpu = 5
    clock.wake()
    assert positive(clock.seconds()) == {START: 5}


def test_blocked_time_of_a_step_waits_for_other_ranks(fake: FakeTime, blocked: Callable[[float], None]) -> None:
    clock = Clock(process_age_sec=0)
    clock.split_waits()
    with clock.part(SAVE_STALL):
        fake.now = 1
        blocked(1)  # waits for the disk
    with clock.part(STEP):
        fake.now = 5
        blocked(2.5)
    assert positive(clock.seconds()) == {SAVE_STALL: 1, STEP: 2.5, COLLECTIVE_WAIT: 1.5}


def test_suspension_inside_a_step_that_splits_its_waits(fake: FakeTime, blocked: Callable[[float], None]) -> None:
    """The scheduler calls a stopped thread blocked too."""
    clock = Clock(process_age_sec=0)
    clock.split_waits()
    clock.enter(STEP)
    fake.now = 10.2
    blocked(10)
    clock.wake()
    clock.leave()
    assert positive(clock.seconds()) == pytest.approx({IDLE: 10, STEP: 0.2})


def test_blocked_time_counts_waiting_and_not_computing() -> None:
    blocked = BlockedTime()
    before = blocked()
    threading.Event().wait(0.5)
    waited = blocked() - before
    before = blocked()
    for _ in range(20):
        torch.ones(300, 300).sin_()
    computed = blocked() - before
    assert waited > 0.4
    assert computed < waited


def test_compilation_is_counted_wherever_it_happens(fake: FakeTime) -> None:
    from torch._dynamo.callback import CallbackTrigger, callback_handler

    clock = Clock(process_age_sec=0)
    watch_compilation(clock)
    with clock.part(STEP):
        fake.now = 1
        with callback_handler.install_callbacks(CallbackTrigger.DYNAMO, "0/0"):
            fake.now = 31
        fake.now = 32
    assert positive(clock.seconds()) == {STEP: 2, COMPILE: 30}
    callback_handler.start_callbacks.pop()
    callback_handler.end_callbacks.pop()
