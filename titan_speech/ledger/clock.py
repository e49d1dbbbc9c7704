"""The clock of the ledger: which class this process's main thread is in, at every moment.

In: parts of training as they begin and end (`with ledger.part(SAVE_STALL)`), steps that ended. Out: seconds by class.
Parts nest, and the innermost counts, so no second counts twice; what is in no part is unclassified. Three things are
found out without asking the training code:

- *Suspension* (SIGSTOP, a paused machine): a thread wakes five times a second. If it wakes more than half a second
  late, and the process used no CPU time meanwhile, the process as a whole did not run: idle, not whatever part it was
  suspended in.
- *Waiting for other ranks inside a step*, on the CPU: the kernel's scheduler statistics of the main thread say how
  long it neither ran nor waited for a core. In a step that is a collective. On CUDA the host does not wait there, the
  device does, and only the agreement at step boundaries counts as collective wait.
- *Compilation*: callbacks of dynamo, which also come for the backward pass and for recompilation.

A part costs 2 microseconds, 10 where waits for other ranks are split off, and no synchronization.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from titan_speech.ledger.records import COLLECTIVE_WAIT, COMPILE, IDLE, MEASURED, START, STEP

WAKE_SEC = 0.2
LATE_SEC = 0.5
"""A wake-up that is so late means suspension, if the process used no CPU time."""

MAX_CPU_SHARE = 0.1
"""CPU time of a process that was suspended, as a share of the time."""

UNCLASSIFIED = ""


class _Part:
    """One part of training, entered again and again."""

    __slots__ = ("_clock", "_name")

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._clock.enter(self._name)

    def __exit__(self, *_: object) -> None:
        self._clock.leave()


class Clock:
    """Seconds by class since the process was created."""

    def __init__(self, *, process_age_sec: float) -> None:
        """Starts in the class `start`.

        Args:
            process_age_sec: since the creation of the process; counts as start.
        """
        self._lock = threading.RLock()
        self._stack = [START]
        self._since = time.monotonic() - process_age_sec
        self._seconds: dict[str, float] = dict.fromkeys((*MEASURED, UNCLASSIFIED), 0.0)
        self._waits: Callable[[], float] | None = None
        self._waits_since = 0.0
        self._suspended_sec = 0.0
        """Part of the time since `_since` in which the process did not run."""
        self._longest: tuple[float, str] = (0.0, START)
        """The longest stretch since the last wake-up, and its class."""
        self._woken_sec, self._woken_cpu_sec = time.monotonic(), time.process_time()
        self._parts = {name: _Part(self, name) for name in MEASURED}

    def part(self, name: str) -> _Part:
        """A context for a part of training of one of the classes `MEASURED`."""
        return self._parts[name]

    def enter(self, name: str) -> None:
        with self._lock:
            self._count()
            self._stack.append(name)

    def leave(self) -> None:
        with self._lock:
            self._count()
            self._stack.pop()

    def settle_in(self, name: str) -> None:
        """What is in no part belongs to this class from now on."""
        with self._lock:
            self._count()
            self._stack[0] = name

    def split_waits(self) -> None:
        """Count as collective wait what a step spends blocked: with several ranks on CPUs. Call it in the main thread.

        A system without scheduler statistics (/proc/.../schedstat) counts it as step.
        """
        try:
            blocked = BlockedTime()
        except OSError:
            return
        with self._lock:
            self._count()
            self._waits, self._waits_since = blocked, blocked()

    def seconds(self) -> dict[str, float]:
        """Seconds by class up to now, unclassified ones included."""
        with self._lock:
            self._count()
            return dict(self._seconds)

    def wake(self) -> None:
        """Called by a thread every `WAKE_SEC`: looks whether the process was suspended."""
        with self._lock:
            now, cpu_sec = time.monotonic(), time.process_time()
            gap_sec, used_sec = now - self._woken_sec, cpu_sec - self._woken_cpu_sec
            self._woken_sec, self._woken_cpu_sec = now, cpu_sec
            late_sec = gap_sec - WAKE_SEC
            if late_sec > LATE_SEC and used_sec < MAX_CPU_SHARE * gap_sec:
                self._move_to_idle(late_sec, now)
            self._longest = (0.0, START)

    def _move_to_idle(self, late_sec: float, now: float) -> None:
        """Move the suspension out of the stretch that it was in: the longest one since the last wake-up."""
        self._seconds[IDLE] += late_sec
        if now - self._since >= self._longest[0]:
            self._suspended_sec += late_sec
        else:
            self._seconds[self._longest[1]] -= late_sec

    def _count(self) -> None:
        """Add the time since the last change to the class it belongs to."""
        now = time.monotonic()
        elapsed_sec, name = now - self._since - self._suspended_sec, self._stack[-1]
        waited_sec = 0.0
        if self._waits is not None and name == STEP:
            waits = self._waits()
            waited_sec = min(max(waits - self._waits_since - self._suspended_sec, 0.0), elapsed_sec)
        self._seconds[name] += elapsed_sec - waited_sec
        self._seconds[COLLECTIVE_WAIT] += waited_sec
        if now - self._since > self._longest[0]:
            self._longest = (now - self._since, COLLECTIVE_WAIT if waited_sec > elapsed_sec / 2 else name)
        self._since, self._suspended_sec = now, 0.0
        if self._waits is not None:
            self._waits_since = self._waits()


class BlockedTime:
    """Seconds in which the thread that made it neither ran nor waited for a core."""

    def __init__(self) -> None:
        """Raises: OSError: the system has no scheduler statistics."""
        self._file = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        self()

    def __call__(self) -> float:
        _, waited_for_core_ns, _ = os.pread(self._file, 64, 0).split()  # the first is only renewed at timer ticks
        ran_sec = time.clock_gettime(self._cpu_clock)
        return time.monotonic() - ran_sec - int(waited_for_core_ns) / 1e9


def watch_compilation(clock: Clock) -> None:
    """Count compilations of dynamo from now on, wherever they happen."""
    from torch._dynamo.callback import callback_handler

    callback_handler.register_start_callback(lambda _: clock.enter(COMPILE))
    callback_handler.register_end_callback(lambda _: clock.leave())


def process_age_sec() -> float:
    """Seconds since this process was created; 0 where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0
