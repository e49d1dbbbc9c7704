"""A model in a process of its own: a crash, a hang or a lack of memory costs one clip, not the evaluation.

In: an `AudioModel` and waveforms. Out: an answer or a `Failure` for each, in order. The process is started with the
first waveform and started again after it died or was stopped; what fails to load, and what fails several times in a
row, is tried again after ten minutes: a watcher lives for days, and a device that was full may be free by then. Sending
a waveform of 10 s costs 0.2 ms; loading is what a restart costs.

The process ends with its pipe, and its parent is watched as well, so that a model that hangs does not outlive it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.evaluate.models.base import Answer, AudioModel, Failure
from titan_speech.utils.printable import one_line

LIMIT_SEC, LOAD_LIMIT_SEC = 120.0, 600.0
MAX_FAILURES = 5
"""Processes lost in a row before the model is given up."""
RETRY_SEC = 600.0
"""After which a model that was given up is tried again."""
WATCH_SEC = 1.0
MAX_REASON = 200
"""Letters of an error that are kept."""
Waveform = tuple[NDArray[np.float32], str]
"""Samples at 16 kHz, and their language."""


class RunningModel(Protocol):
    """A loaded model, as scorers ask it."""

    model: AudioModel

    def __call__(self, waveforms: Sequence[Waveform]) -> list[Answer | Failure]:
        """The answer for each waveform, or the reason why it is missing."""
        ...

    def close(self) -> None:
        """End it; it is started again if another waveform comes."""
        ...


class IsolatedModel:
    """A model in a process; closed at the end, or by `with`."""

    def __init__(self, model: AudioModel, limit_sec: float = LIMIT_SEC, load_limit_sec: float = LOAD_LIMIT_SEC) -> None:
        """Args:
        model: what runs.
        limit_sec: longest time for one waveform.
        load_limit_sec: longest time to load.
        """
        self.model, self.limit_sec, self.load_limit_sec = model, limit_sec, load_limit_sec
        self._process: Any = None
        self._pipe: Connection | None = None
        self._given_up, self._given_up_at = "", 0.0
        self._num_failures = 0

    def __call__(self, waveforms: Sequence[Waveform]) -> list[Answer | Failure]:
        """The answer for each waveform, or the reason why it is missing."""
        return [self._answer(waveform) for waveform in waveforms]

    def __enter__(self) -> IsolatedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self) -> None:
        """Start the process now, before its first waveform is there.

        Raises:
            ModelError: the model cannot be loaded.
        """
        if reason := self._start():
            raise ModelError(reason)

    def close(self) -> None:
        """Stop the process; it is started again if another waveform comes."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def _answer(self, waveform: Waveform) -> Answer | Failure:
        if self._given_up and time.monotonic() - self._given_up_at >= RETRY_SEC:
            self._given_up, self._num_failures = "", 0
        if self._pipe is None and not self._given_up:
            self._give_up(self._start())
        if self._given_up or self._pipe is None:
            return Failure(self._given_up)
        reason, may_go_on = self._ask(waveform)
        if not isinstance(reason, Failure):
            self._num_failures = 0
            return reason
        if not may_go_on:
            self.close()
            self._num_failures += 1
            if self._num_failures >= MAX_FAILURES:
                self._give_up(f"{self.model.name} was given up after {MAX_FAILURES} failures: {reason.reason}")
        return reason

    def _give_up(self, reason: str) -> None:
        self._given_up, self._given_up_at = reason, time.monotonic()

    def _start(self) -> str:
        """Start the process and wait until the model is loaded; the reason if it is not."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.model, theirs, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()
        answer, _ = self._receive(self.load_limit_sec, "loading")
        if isinstance(answer, Failure):
            self.close()
            return f"{self.model.name} cannot be loaded: {answer.reason}"
        return ""

    def _ask(self, waveform: Waveform) -> tuple[Answer | Failure, bool]:
        assert self._pipe is not None
        try:
            self._pipe.send(waveform)
        except OSError:
            return Failure(self._death()), False
        return self._receive(self.limit_sec, "this clip")

    def _receive(self, limit_sec: float, what: str) -> tuple[Answer | Failure, bool]:
        """What the process sends next, and whether it may be asked again."""
        assert self._pipe is not None
        try:
            if not self._pipe.poll(limit_sec):
                return Failure(f"no answer within {limit_sec:g} s for {what}; was stopped"), False
            return self._pipe.recv()
        except (EOFError, OSError):
            return Failure(self._death()), False

    def _death(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"its process was ended by {name}" + (" (possibly out of memory)" if name == "SIGKILL" else "")
        return f"its process ended with exit code {code}"


def _serve(model: AudioModel, pipe: Connection, parent: int) -> None:
    """The process: load, then answer until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    os.dup2(2, 1)  # what libraries print is no result
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    try:
        listen = model.load()
    except Exception as error:
        pipe.send((_failure(error), False))
        return
    pipe.send((None, True))
    while True:
        try:
            waveform = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(answer_of(listen, waveform))


def answer_of(listen: Any, waveform: Waveform) -> tuple[Answer | Failure, bool]:
    """The answer, and whether the model may be asked again."""
    try:
        return listen(*waveform), True
    except MemoryError:
        return Failure("out of memory"), False
    except Exception as error:
        return _failure(error), "out of memory" not in str(error).lower()


def _failure(error: Exception) -> Failure:
    text = one_line(str(error))
    if len(text) > MAX_REASON:  # errors of TorchScript begin with a traceback and end with the reason
        text = f"{text[: MAX_REASON // 2]} ... {text[-MAX_REASON // 2 :]}"
    return Failure(f"{type(error).__name__}: {text}")


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SEC)
    os._exit(1)
