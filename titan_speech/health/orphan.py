"""A worker whose launcher is gone stops as after SIGTERM, instead of training on and holding the run folder.

In: the process that started this one, as it was when the process began. Out: SIGTERM to this process within half a
second of the launcher's death: before the first step that ends it, later all ranks save and exit with 75 (signals.py).

A launcher is whatever sets TORCHELASTIC_RUN_ID: torchrun, and other users of torch's elastic agent. Without one the
parent is a shell or a scheduler's step, which may end and leave the run alone (nohup). The parent is polled, four times
a second: Linux could send the signal by itself (PR_SET_PDEATHSIG), but when the launcher's thread ends, not its
process. On two cores that other work kept busy (load 10 to 15), a small run's ranks were gone 3.3, 3.4 and 4.8 s after
the launcher at 1, 2 and 5 ranks: the poll 0.3 s, the step 2 s, the save 1 s. Where the launcher piped the output, the
pipe has no reader any more, so what is printed from then on is lost; without a reader the next print would be an error
in the middle of the save.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

POLL_SEC = 0.25


def stop_with_launcher() -> None:
    """Watch the launcher from here to the end of the process; does nothing without one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher", daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher and not _has_died_before(launcher):
        time.sleep(POLL_SEC)
    for stream in (1, 2):
        if _has_no_reader(stream):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    rank = os.environ.get("RANK", "0")
    print(f"titan_speech: rank {rank} was left by its launcher (process {launcher}), which is gone", file=sys.stderr)
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
