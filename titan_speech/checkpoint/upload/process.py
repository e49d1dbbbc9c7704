"""Training's side of the uploads: starts the uploading process, reads its status, waits for its end.

In: the configuration, and which ranks share a file system with rank 0.
Out: an `Uploader` on the first process of node 0 and of every node that does not see node 0's folder: without a shared
file system each node sends what its ranks wrote. It gives values for the metrics and a sentence at the end of the run;
nothing here but `finish` waits for the network.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchtitan.tools.logging import logger

from titan_speech.checkpoint.commit import Kind, step_name
from titan_speech.checkpoint.upload.job import (
    STATUS_DIR,
    UploadJob,
    UploadStatus,
    read_status,
    status_path,
)
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.distributed.consensus import RanksSeeingRank0
from titan_speech.distributed.environment import dist_env
from titan_speech.utils.printable import redact
from titan_speech.utils.safe_path import open_without_link

COMMAND = (sys.executable, "-m", "titan_speech.checkpoint.upload.uploader")
RESTART_SEC = 30.0
REPORT_EVERY_SEC = 30.0


@dataclass(frozen=True)
class UploadOutcome:
    """How the uploads of a run ended."""

    is_all: bool
    text: str

    def __str__(self) -> str:
        return self.text


class Uploader:
    """The uploading process of this node."""

    def __init__(self, job: UploadJob) -> None:
        self.job = job
        self._path = status_path(job.run, job.node)
        self._reported = UploadStatus(to=job.upload.to)
        self._is_closed = False
        self._started_at, self._process = 0.0, self._start()

    @property
    def status(self) -> UploadStatus:
        return read_status(self._path) or self._reported

    def figures(self) -> dict[str, float]:
        """Values for the metrics of a log step; also restarts the process if it died, and logs what is new."""
        self._keep_alive()
        status = self.status
        self._report_changes(status)
        return {
            "upload/num_waiting": len(status.waiting),
            "upload/waiting_bytes": status.left_bytes,
            "upload/oldest_age_sec": status.oldest_age_sec,
            "upload/num_failures": status.num_failures,
        }

    def finish(self, limit_sec: float) -> UploadOutcome:
        """Wait until everything is at the address, at most `limit_sec`."""
        self._keep_alive()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write("finish\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + limit_sec
        due = time.monotonic() + REPORT_EVERY_SEC
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            if time.monotonic() >= due:
                due += REPORT_EVERY_SEC
                logger.info(f"The end of the run waits for uploads: {_progress(self.status)}.")
        self.close()
        return self._outcome()

    def close(self) -> None:
        """End the process and do not start it again; what it has sent stays."""
        self._is_closed = True
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _outcome(self) -> UploadOutcome:
        status = self.status
        if not status.waiting and self._process.returncode == 0:
            left_out = f", but for: {'; '.join(status.left_out)}" if status.left_out else ""
            return UploadOutcome(not left_out, f"All checkpoints are at {self.job.upload.to}{left_out}.")
        error = f" The last error: {status.last_error}" if status.last_error else ""
        return UploadOutcome(
            False,
            f"NOT everything is at {self.job.upload.to}: {_progress(status)}. To send the rest, start the run again or "
            f"run: titan-speech checkpoint push {self.job.run} {self.job.upload.to}.{error}",
        )

    def _start(self) -> subprocess.Popen[str]:
        self._started_at = time.monotonic()
        (self.job.run / STATUS_DIR).mkdir(parents=True, exist_ok=True)
        log_file = self.job.run / STATUS_DIR / f"node-{self.job.node}.log"
        with open(open_without_link(log_file, os.O_APPEND), "ab") as log:
            process = subprocess.Popen(  # noqa: S603  (this interpreter and a module of ours)
                COMMAND, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True
            )
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(self.job.to_json() + "\n")
            process.stdin.flush()
        return process

    def _keep_alive(self) -> None:
        if self._is_closed:
            return
        if self._process.poll() is not None and time.monotonic() - self._started_at > RESTART_SEC:
            logger.warning(f"The uploading process ended with code {self._process.returncode}; it is restarted.")
            try:
                self._process = self._start()
            except OSError as error:
                logger.warning(f"The uploading process could not be started: {error}. Training continues.")

    def _report_changes(self, status: UploadStatus) -> None:
        """Log what changed since the last call."""
        for name in status.complete:
            if name not in self._reported.complete and name in self._reported.waiting:
                logger.info(f"Checkpoint {name} is complete at {self.job.upload.to}.")
        if status.last_error and status.last_error != self._reported.last_error:
            logger.warning(f"Uploads wait, training continues ({_progress(status)}): {redact(status.last_error)}")
        self._reported = status


def _progress(status: UploadStatus) -> str:
    if not status.waiting:
        return "nothing waits"
    return f"{', '.join(status.waiting[:8])} left, {status.left_bytes / 1e6:,.1f} MB"


def waiting_steps(run: Path, upload: UploadConfig, kinds: Mapping[int, Kind]) -> frozenset[int]:
    """Steps of the checkpoints that retention leaves until they are at the address.

    With upload.keep = "all" a checkpoint that was never sent would be missing there for ever, so it waits. With
    "policy" none does: what the policy removes here it would remove there at once, and storage that is slower than the
    run saves must not fill the disk.

    Args:
        kinds: kind of each checkpoint by step; one that the uploader has not seen yet waits too.
    """
    if not upload.to or upload.keep == "policy":
        return frozenset()
    status = read_status(status_path(run))
    complete = set(status.complete) - set(status.waiting) if status else set()
    return frozenset(step for step, kind in kinds.items() if kind in upload.kinds and step_name(step) not in complete)


def start_uploads(config: SpeechConfig, seeing: RanksSeeingRank0) -> Uploader | None:
    """Start this node's uploader; None where another process sends, or nothing is uploaded."""
    settings, env = config.checkpoint, dist_env()
    if not config.upload.to or not settings.enable or settings.create_seed_checkpoint or not env.is_first_of_node:
        return None
    if not env.is_first and seeing.by_rank[env.rank]:
        return None
    num_nodes = 1 if seeing.are_all else env.world_size // env.local_world_size
    return Uploader(UploadJob.of_run(config, env.node, num_nodes))
