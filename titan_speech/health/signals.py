"""Signals as a request to stop: save and exit.

In: the signals of a scheduler, of Ctrl-C, or of a launcher, which passes them on; the reason for an end.
Out: a call of `on_stop` on this rank, also while the main thread waits inside a collective; the checkpoint manager
informs all others, so that they save at the same step and exit with EXIT_RESTART. A second signal exits at once, and so
does a rank that could not save in time; complete checkpoints stay as they are. Signals that follow each other closely
are one: a scheduler often signals the launcher and its workers, and the launcher passes its own on. Ctrl-C is typed by
a person, who may well mean it twice after half a second.

The interpreter runs handlers only between bytecodes of the main thread, so a thread listens to its wake-up socket.
exit_codes.py has the codes.
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
from contextlib import suppress
from pathlib import Path

from titan_speech.checkpoint.commit import checkpoint_path, committed_steps
from titan_speech.distributed.environment import dist_env
from titan_speech.exit_codes import EXIT_RESTART


class StopRun(SystemExit):
    """Ends every rank at a step boundary, in order: not a failure, so without a traceback."""

    def __init__(self, reason: str) -> None:
        super().__init__(EXIT_RESTART)
        self.reason = reason


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ONE_SIGNAL_SEC, ONE_CTRL_C_SEC = 2.0, 0.5
POLL_SEC = 0.25


def is_repeated(number: int, after_sec: float) -> bool:
    """Whether a signal that came so long after the first one is the same one once more."""
    return after_sec <= (ONE_CTRL_C_SEC if number == signal.SIGINT else ONE_SIGNAL_SEC)


def signal_text(number: int) -> str:
    """The name of a signal for people: "Ctrl-C", "SIGTERM"."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def describe_kept(checkpoints: Path) -> str:
    """What a run that ends now has on disk: its newest complete checkpoint."""
    steps = committed_steps(checkpoints)
    return f"{checkpoint_path(checkpoints, steps[-1])} is complete" if steps else "no checkpoint was saved yet"


class StopSignals:
    """Listens for signals from `listen` to the end of the process."""

    def __init__(self, within_sec: float, on_stop: Callable[[str], None], describe_kept: Callable[[], str]) -> None:
        """Args:
        within_sec: time from the signal within which the rank must have exited by itself.
        on_stop: called with the signal's name; requests a save.
        describe_kept: what is complete on disk, for the last words of a rank that exits at once.
        """
        self.within_sec, self.on_stop, self.describe_kept = within_sec, on_stop, describe_kept
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
        name = signal_text(first)
        self.on_stop(name)
        _print(f"got {name}: saving at the next step boundary, then stopping (at most {self.within_sec:g} s)")
        while (number := self._next_signal(began + self.within_sec)) is not None:
            if not is_repeated(number, time.monotonic() - began):
                again = "again" if number == first else f"and then {signal_text(number)}"
                # 130 is what a shell expects after Ctrl-C; to a scheduler the code says that the run can be resumed
                code = 128 + number if number == signal.SIGINT else EXIT_RESTART
                self._exit(f"got {name} {again}: exiting at once, without saving", code)
        self._exit(f"could not save within {self.within_sec:g} s of {name} (health.stop_within_sec)", EXIT_RESTART)

    def _next_signal(self, deadline: float | None) -> int | None:
        """The next signal, or None at the deadline."""
        while True:
            left_sec = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._receiver], [], [], left_sec)[0]:
                return None
            for number in self._receiver.recv(64):
                if number in STOP_SIGNALS:
                    return number

    def _exit(self, message: str, code: int) -> None:
        _print(f"{message}; {self.describe_kept()}")
        os._exit(code)


def _print(message: str) -> None:
    print(f"titan_speech: rank {dist_env().rank} {message}", file=sys.stderr, flush=True)


def stop_with_launcher() -> None:
    """Send this process SIGTERM when its launcher is gone, so that it does not train on and hold the run folder.

    Before the first step the signal ends the process, later all ranks save and exit with 75. A launcher is whatever
    sets TORCHELASTIC_RUN_ID: torchrun, and other users of torch's elastic agent; without one this does nothing, since
    the parent is then a shell or a scheduler's step, which may end and leave the run alone (nohup). The parent is
    polled: Linux could send the signal by itself (PR_SET_PDEATHSIG), but when the launcher's thread ends, not its
    process. On two cores that other work kept busy (load 10 to 15), a small run's ranks were gone 3.3, 3.4 and 4.8 s
    after the launcher at 1, 2 and 5 ranks: the poll 0.3 s, the step 2 s, the save 1 s.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher and not _has_died_before(launcher):
        time.sleep(POLL_SEC)
    for stream in (1, 2):
        if _has_no_reader(stream):  # the launcher piped it: the next print would be an error in the middle of the save
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    _print(f"was left by its launcher (process {launcher}), which is gone")
    os.kill(os.getpid(), signal.SIGTERM)


def _has_died_before(launcher: int) -> bool:
    """Whether the launcher was gone before anybody looked: the first process of the machine, which adopts orphans, is
    a launcher only in containers, and then a Python program."""
    with suppress(OSError):
        return launcher == 1 and b"python" not in Path("/proc/1/cmdline").read_bytes()
    return False


def _has_no_reader(stream: int) -> bool:
    """Whether a stream is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
