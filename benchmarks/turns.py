"""Measure processes in turns: each trains some steps while the others wait, repeatedly.

In: variants, each a module that trains and calls `Talker.at_boundary` before every step. Out: windows: what each did in
each round. All of them are started, then warmed up, then measured in rounds; the order within a round is turned by one
each time. So other load on the machine slows all of them, and a ratio within a round is more reliable than either
value. Trade-off: all variants are in memory at once (1 to 2 GB each for the debug model on a CPU).

    runner                         variant (rank 0 talks, other ranks follow)
    listens at 127.0.0.1   <----   connects, "ready"
    "steps 4"              ---->   trains 4 steps
    waits                  <----   Window
    "steps 0"              ---->   ends
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

from benchmarks.machine import ROOT, free_port

ADDRESS = "TITAN_SPEECH_BENCHMARK_PORT"
LONGEST_WAIT_SEC = 1800.0
"""Longest a variant may take to its first step, or a window: compilation of an 8B included."""


@dataclass(frozen=True)
class Variant:
    """One process that trains."""

    name: str
    what: str
    module: str
    """Started as `python -m`."""
    arguments: tuple[str, ...]
    config: Mapping[str, str | float | None] = field(default_factory=dict)
    world_size: int = 1


@dataclass(frozen=True)
class Window:
    """Some steps of one variant."""

    num_steps: int
    wall_sec: float
    cpu_sec: float
    """Of all threads of rank 0."""
    num_tokens: int
    """Positions computed, padding included, over all ranks."""
    num_trained_tokens: int
    num_pad_tokens: int
    peak_memory_bytes: int
    """Since the process began: of the device on a GPU, resident memory on a CPU."""
    data_wait_sec: float = 0.0
    sum_squared_lengths: int = 0
    """Over documents, padding as one: what attention inside documents costs."""
    num_compiled_graphs: int = 0
    """Since the process began; 0: nothing is compiled."""


class Running:
    """A variant's process and the line to it."""

    def __init__(self, variant: Variant, log: Path) -> None:
        self.variant, self._log = variant, log
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(1.0)
        environment = {**os.environ, ADDRESS: str(self._server.getsockname()[1])}
        self._began = time.perf_counter()
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command(variant),
                cwd=ROOT,
                env=environment | (alone() if variant.world_size == 1 else {}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.ready_sec = 0.0

    def wait_until_ready(self) -> None:
        """Its first step is next.

        Raises:
            RuntimeError: it ended before; the text ends with its last lines.
        """
        line = None
        while line is None:
            if self._process.poll() is not None or time.perf_counter() - self._began > LONGEST_WAIT_SEC:
                raise self._ended_early()
            with suppress(TimeoutError):
                line, _ = self._server.accept()
        line.settimeout(None)
        self._stream = line.makefile("rw", encoding="utf-8", newline="\n")
        self._answer()
        self.ready_sec = time.perf_counter() - self._began

    def run(self, num_steps: int) -> Window:
        self._say(num_steps)
        return Window(**json.loads(self._answer()))

    def end(self) -> None:
        """Asks it to end; one that does not is killed."""
        with suppress(OSError, AttributeError, subprocess.TimeoutExpired):
            self._say(0)
            self._process.wait(60)
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._server.close()

    def _say(self, num_steps: int) -> None:
        self._stream.write(f"{num_steps}\n")
        self._stream.flush()

    def _answer(self) -> str:
        limit = Timer(LONGEST_WAIT_SEC, self._process.terminate)
        limit.daemon = True  # an interrupted runner ends at once
        try:
            limit.start()
            answer = self._stream.readline()
        finally:
            limit.cancel()
        if not answer:
            raise self._ended_early()
        return answer

    def _ended_early(self) -> RuntimeError:
        log = self._log.read_text(errors="replace").strip().splitlines()
        return RuntimeError("\n".join([f"{self.variant.name} ended early; its last lines:", *log[-25:]]))


def command(variant: Variant) -> list[str]:
    start = ["-m", variant.module, *variant.arguments]
    if variant.world_size == 1:
        return [sys.executable, *start]
    ranks = ("--nproc-per-node", str(variant.world_size), "--master-port", str(free_port()))
    return [sys.executable, "-m", "torch.distributed.run", *ranks, *start]


def alone() -> dict[str, str]:
    """A world of one, as torchrun would tell it."""
    return {
        **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
    }


@dataclass(frozen=True)
class Rounds:
    """How much is measured."""

    warmup_steps: int
    window_steps: int
    num_rounds: int


@dataclass(frozen=True)
class Turn:
    """All that was measured of one variant."""

    variant: Variant
    ready_sec: float
    """From the start of its process to its first step; no other ran meanwhile."""
    warmup: Window
    windows: tuple[Window, ...]


def take_turns(variants: Sequence[Variant], rounds: Rounds, tell: Callable[[str], None]) -> dict[str, Turn]:
    """By name; a variant that fails ends all."""
    with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder, ExitStack() as stack:
        running = []
        for number, variant in enumerate(variants):
            one = Running(variant, Path(folder) / f"{number}.log")
            stack.callback(one.end)
            running.append(one)
            tell(f"starting {variant.name}")
            one.wait_until_ready()
        warmups = {}
        for one in running:
            tell(f"warming up {one.variant.name}: {rounds.warmup_steps} steps")
            warmups[one.variant.name] = one.run(rounds.warmup_steps)
        found: dict[str, list[Window]] = {one.variant.name: [] for one in running}
        for number in range(rounds.num_rounds):
            turned = number % len(running)
            for one in running[turned:] + running[:turned]:
                found[one.variant.name].append(one.run(rounds.window_steps))
            times = ", ".join(f"{name} {windows[-1].wall_sec:.2f} s" for name, windows in found.items())
            tell(f"round {number + 1} of {rounds.num_rounds}: {times}")
    return {
        name: Turn(one.variant, one.ready_sec, warmups[name], tuple(found[name]))
        for one in running
        for name in (one.variant.name,)
    }
