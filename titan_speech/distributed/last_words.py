"""The last words of a rank: one message for people, one file for the launcher, and the command that resumes.

In: a message, the words of the run's configuration. Out: rank 0 prints the message; every rank writes it to the error
file of torch's elastic agents (TORCHELASTIC_ERROR_FILE), where torchrun looks for what it shows as the cause.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from titan_speech.config.overrides import parse_flags
from titan_speech.distributed.environment import dist_env
from titan_speech.utils import printable
from titan_speech.utils.files import write_atomically

LAUNCHER_VARIABLE = "TITAN_SPEECH_LAUNCHER"
"""Set for ranks that `titan-speech train` started, to the largest number of nodes; it has checked the configuration and
said what begins."""

_CONFIG_FILE = ("job", "config_file")


def say(text: str) -> None:
    """One message on stderr."""
    print(printable.message(f"titan_speech: {text}"), file=sys.stderr, flush=True)


def say_on_rank_0(text: str) -> None:
    """One message of the run on stderr."""
    if dist_env().is_first:
        say(text)


def end(text: str) -> None:
    """Say why the run ends, and write it down for the launcher."""
    say_on_rank_0(text)
    write_error_file(text, text)


def write_error_file(message: str, details: str) -> None:
    """Tell the launcher why this process fails, in the form of torchelastic's error files.

    torchrun prints `details` in its own report in place of "To enable traceback see", and orders failures by the time.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    extra = {"py_callstack": printable.printable(details), "timestamp": str(int(time.time()))}
    record = {"message": {"message": printable.message(message), "extraInfo": extra}}
    with suppress(OSError):  # the message was printed; half of a file would end the launcher
        write_atomically(Path(path), json.dumps(record))


def resume_hint(words: Sequence[str], num_processes: int, num_nodes: int) -> str:
    """How to resume the run that was started with these words of a configuration on so many processes per node.

    A run of several nodes needs their flags, also while an elastic one has one node.
    """
    if max(num_nodes, int(os.environ.get(LAUNCHER_VARIABLE, "1"))) > 1:
        return "The same command on every node resumes the run"
    overrides, _ = parse_flags(words)
    files = [one.text for one in overrides if one.path == _CONFIG_FILE and one.text]
    flags = [
        word
        for one in overrides
        if one.path != _CONFIG_FILE
        for word in (f"--{'.'.join(one.path)}", *([] if one.text is None else [one.text]))
    ]
    command = ["titan-speech", "train", *files[-1:], "--nproc", str(num_processes), *flags]
    return f"To resume: {shlex.join(command)}"


def is_of_a_collective(error: BaseException) -> bool:
    """Whether an error is one of a collective or of the store; gloo raises a plain RuntimeError.

    torch wraps what happened on each rank while a checkpoint is read or written: one such error among them is enough,
    since what the others then report follows from it.
    """
    if "torch.distributed" not in sys.modules:  # then nothing of torch can have raised it
        return False
    import torch

    if "torch.distributed.checkpoint" in sys.modules:
        from torch.distributed.checkpoint.api import CheckpointException

        if isinstance(error, CheckpointException):
            return any(is_of_a_collective(cause) for cause, _ in error.failures.values())
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def first_line(error: BaseException) -> str:
    """What happened, without gloo's file names and advice and the C++ stack that torch appends."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[\S+\.cc:\d+\] ", "", line).split(" This is typically caused by")[0][:300]
