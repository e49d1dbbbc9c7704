"""How a run ends: exit codes a scheduler can act on, and signals as a request to stop.

In: the signals of a scheduler, or of torchrun, which passes them on; the reason for an end.
Out: a call of `on_stop` on this rank, also while the main thread waits inside a collective; the checkpoint manager
tells all others, so that they save at the same step and exit with EXIT_RESTART. A second signal exits at once, and so
does a rank that could not save in time; complete checkpoints stay as they are. Signals within two seconds are one: a
scheduler often signals torchrun and its workers, and torchrun passes its own on.

The interpreter runs handlers only between bytecodes of the main thread, so a thread listens to its wake-up socket.
docs/checkpoints.md says how to act on each exit code.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

EXIT_BAD_INPUT = 2
"""Configuration, stores or checkpoints are not as they should be, found before the first step."""

EXIT_UNHEALTHY = 3
"""The run stopped itself after its first step, over health, data or checkpoints: it would do the same again."""

EXIT_HUNG = 4
"""Another rank is lost or did not answer: a restart resumes from the last checkpoint."""

EXIT_RESTART = 75
"""EX_TEMPFAIL of sysexits.h: the run was asked to stop, or was rolled back; the same command resumes."""


class StopRun(SystemExit):
    """Ends every rank at a step boundary, in order: not a failure, so without a traceback."""

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_RESTART)
        self.reason = reason


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
ONE_SIGNAL_SEC = 2.0


class StopSignals:
    """Listens for signals from `listen` to the end of the process."""

    def __init__(self, within_sec: float, on_stop: Callable[[str], None]) -> None:
        """`within_sec`: time from the signal within which the rank must have exited by itself."""
        self.within_sec, self.on_stop = within_sec, on_stop
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)

    def listen(self) -> None:
        """Call it from the main thread. Before it a signal ends the process as usual: there is nothing to save yet."""
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop-signals", daemon=True).start()

    def _watch(self) -> None:
        first = self._next_signal(None)
        began = time.monotonic()
        assert first is not None, "there is no deadline before the first signal"
        self.on_stop(first)
        _print(f"got {first}: saving at the next step boundary, then stopping (at most {self.within_sec:g} s)")
        while (name := self._next_signal(began + self.within_sec)) is not None:
            if time.monotonic() - began > ONE_SIGNAL_SEC:
                _exit(f"got {name} after {first}: exiting at once, without saving")
        _exit(f"could not save within {self.within_sec:g} s of {first} (health.stop_within_sec): exiting")

    def _next_signal(self, deadline: float | None) -> str | None:
        """Name of the next signal, or None at the deadline."""
        while True:
            left_sec = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._receiver], [], [], left_sec)[0]:
                return None
            for number in self._receiver.recv(64):
                if number in STOP_SIGNALS:
                    return signal.Signals(number).name


def _exit(message: str) -> None:
    _print(message)
    os._exit(EXIT_RESTART)


def _print(message: str) -> None:
    print(f"titan_speech: rank {os.environ.get('RANK', '0')} {message}", file=sys.stderr, flush=True)
