"""The training process's side of measuring in turns.

In: calls of a training loop before each of its steps, and of each batch. Out: the loop waits there for its turn, and
reports its window to the runner (turns.py). The loop itself is the real one: only its step boundary is hooked. On a GPU
a window begins and ends with a synchronisation; between steps nothing is added.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from threading import Event, Lock
from typing import Any, TypeVar

from benchmarks.machine import memory_bytes
from benchmarks.turns import ADDRESS, Window

Item = TypeVar("Item")
NOTHING = Window(0, 0.0, 0.0, 0, 0, 0, 0)


class Talker:
    """Ranks of one variant; rank 0 holds the line to the runner."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.counted = NOTHING
        """What batches and steps added since the window began."""
        self._in_turn, self._reading = Event(), Lock()
        self._in_turn.set()
        self._left = 0
        self._began = self._began_cpu = 0.0
        self._is_first = True
        self._stream = None
        if self.rank == 0:
            line = socket.create_connection(("127.0.0.1", int(os.environ[ADDRESS])))
            self._stream = line.makefile("rw", encoding="utf-8", newline="\n")

    def count(
        self, num_tokens: int, num_trained_tokens: int, num_pad_tokens: int, sum_squared_lengths: int = 0
    ) -> None:
        """Of one batch of this rank."""
        so_far = self.counted
        self.counted = replace(
            so_far,
            num_tokens=so_far.num_tokens + num_tokens,
            num_trained_tokens=so_far.num_trained_tokens + num_trained_tokens,
            num_pad_tokens=so_far.num_pad_tokens + num_pad_tokens,
            sum_squared_lengths=so_far.sum_squared_lengths + sum_squared_lengths,
        )

    def waited(self, sec: float) -> None:
        """For data."""
        self.counted = replace(self.counted, data_wait_sec=self.counted.data_wait_sec + sec)

    def only_in_turn(self, items: Iterator[Item]) -> Iterator[Item]:
        """For what reads ahead in a thread: nothing is begun while others have their turn, and a turn lasts until what
        was begun in it is there. A loader slower than a step would else catch up at the others' expense."""
        while True:
            self._in_turn.wait()
            with self._reading:
                item = next(items)
            yield item

    def at_boundary(self) -> bool:
        """Called before each step; False: there are no more."""
        if self._left == 0:
            self._in_turn.clear()
            with self._reading:
                pass
            if self._is_first:
                self._tell("ready")
            else:
                self._tell(json.dumps(asdict(self._window())))
            self._is_first = False
            self._left = self._asked_steps()
            self._in_turn.set()
            if self._left == 0:
                return False
            self._begin(self._left)
        self._left -= 1
        return True

    def _begin(self, num_steps: int) -> None:
        self.counted = replace(NOTHING, num_steps=num_steps)
        _synchronise()
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def _window(self) -> Window:
        _synchronise()
        wall_sec, cpu_sec = time.perf_counter() - self._began, time.process_time() - self._began_cpu
        mine = self.counted
        counts = [mine.num_tokens, mine.num_trained_tokens, mine.num_pad_tokens, mine.sum_squared_lengths]
        tokens, trained, pad, squared = _sum_over_ranks(counts)
        return replace(
            mine,
            wall_sec=wall_sec,
            cpu_sec=cpu_sec,
            num_tokens=tokens,
            num_trained_tokens=trained,
            num_pad_tokens=pad,
            sum_squared_lengths=squared,
            peak_memory_bytes=peak_memory_bytes(),
            num_compiled_graphs=_num_compiled_graphs(),
        )

    def _tell(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def _asked_steps(self) -> int:
        """The number of steps, on every rank; 0 also when the runner is gone."""
        asked = int(self._stream.readline() or 0) if self._stream is not None else 0
        return _sum_over_ranks([asked])[0]


def _torch() -> Any:
    """None in a loop that has not imported it, which has neither ranks nor a device."""
    return sys.modules.get("torch")


def _has_gpu() -> bool:
    return _torch() is not None and _torch().cuda.is_available()


def _sum_over_ranks(values: list[int]) -> list[int]:
    torch = _torch()
    if torch is None or not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return values
    sums = torch.tensor(values, device="cuda" if _has_gpu() else "cpu")
    torch.distributed.all_reduce(sums)
    return [int(value) for value in sums.tolist()]


def _synchronise() -> None:
    if _has_gpu():
        _torch().cuda.synchronize()


def _num_compiled_graphs() -> int:
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


def peak_memory_bytes() -> int:
    if _has_gpu():
        return _torch().cuda.max_memory_reserved()
    return memory_bytes("VmHWM")
