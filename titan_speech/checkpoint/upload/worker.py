"""The uploading process of a node: sends what is complete in the folder until it is told to finish.

In: an `UploadJob` as the first line of stdin; a line "finish" when nothing more will come. Out: checkpoints at the
address, a status file (`status.py`), and exit code 0 when nothing waits any more. It is a process of its own, so that
hashing and sending take no time from training's interpreter, and nothing that happens to it happens to training. It
ends by itself when training is gone.

Whatever fails is said in the status and tried again, after 1, 2, 4 .. 60 s; a damaged checkpoint is left out.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from titan_speech.checkpoint.upload.job import UploadJob, job_of_text
from titan_speech.checkpoint.upload.uploader import UploadPass
from titan_speech.utils.logging import silence_library_warnings

logger = logging.getLogger(__name__)

POLL_SEC, LONGEST_WAIT_SEC = 1.0, 60.0
NICENESS = 10


class Parent:
    """What the training process wants; ends this process when it is gone."""

    def __init__(self) -> None:
        self.wants_finish = threading.Event()
        self._process_id = os.getppid()
        for watch in (self._read, self._look):
            threading.Thread(target=watch, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            if line.strip() == "finish":
                self.wants_finish.set()
        os._exit(1)

    def _look(self) -> None:
        """Another child of training may hold the pipe open."""
        while os.getppid() == self._process_id:
            time.sleep(POLL_SEC)
        os._exit(1)


def work(job: UploadJob, parent: Parent) -> None:
    """Until nothing is left and nothing more will come."""
    turn, num_failures = UploadPass(job), 0
    while True:
        is_last = parent.wants_finish.is_set()
        try:
            turn.run()
            num_failures = 0
        except Exception as error:  # anything but the end of training is worth another attempt
            num_failures += 1
            turn.failed(error)
            logger.exception("an upload failed")
        if is_last and not num_failures and not turn.is_waiting:
            return
        wait_sec = min(LONGEST_WAIT_SEC, 2.0 ** (num_failures - 1)) if num_failures else POLL_SEC
        _wait(parent, wait_sec, is_last)


def _wait(parent: Parent, wait_sec: float, is_last: bool) -> None:
    """The wish to finish is heard at once."""
    if is_last:
        time.sleep(wait_sec)
    else:
        parent.wants_finish.wait(wait_sec)


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signal_number, signal.SIG_IGN)  # schedulers send them to every process; training decides
    silence_library_warnings()
    job = job_of_text(sys.stdin.readline())
    os.nice(NICENESS)
    work(job, Parent())
    return 0


if __name__ == "__main__":
    sys.exit(main())
