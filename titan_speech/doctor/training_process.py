"""A training in a process of its own, with a time limit.

In: words of a Python command and seconds. Out: `Trained`: how it ended and what it printed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from titan_speech.training.sinks.webhook import WEBHOOK_VARIABLE

STOP_SEC = 90.0
"""For a save, once its time is over."""
NUM_LAST_LINES = 8


@dataclass(frozen=True)
class Trained:
    """How a process that trained ended."""

    code: int
    output: str
    is_late: bool
    """Its time was over before it ended."""

    @property
    def last_lines(self) -> str:
        return "\n".join(self.output.strip().splitlines()[-NUM_LAST_LINES:])


def train(words: Sequence[str], within_sec: float) -> Trained:
    """Run Python with these words; when its time is over it is asked to stop, as by a scheduler, and then killed. It
    sends nobody a message: what it trains is no run of its user's."""
    outside = {name: value for name, value in os.environ.items() if name != WEBHOOK_VARIABLE}
    is_late = False
    process = subprocess.Popen(  # noqa: S603  (this Python, this package)
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**outside, "WANDB_MODE": "disabled"},
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, within_sec))
    except subprocess.TimeoutExpired:
        is_late = True
        process.send_signal(signal.SIGTERM)
        try:
            output, _ = process.communicate(timeout=STOP_SEC)
        except subprocess.TimeoutExpired:
            _kill(process)
            output, _ = process.communicate()
    except BaseException:
        _kill(process)
        process.wait()
        raise
    return Trained(process.returncode, output, is_late)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
