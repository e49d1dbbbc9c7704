"""Training's side of the uploader: starts it, reads its status, starts it again, waits for its end.

In: an `UploadJob`. Out: figures for the metrics, and a sentence at the end of the run. Nothing here waits for the
network, but `finish`.

Which checkpoints retention leaves until they are at the address.

In: what the uploader says of itself, and the [upload] table. Out: their steps. With upload.keep = "all" a checkpoint
that was never sent would be missing there for ever, so it waits here. With "policy" none does: what the policy removes
here it would remove there at once, and storage that is slower than the run saves is not to fill the disk with it.

The uploader of this process's node, if it needs one.

In: the configuration and who sees whose folder. Out: an `Uploader` on the first process of node 0, and on that of every
node that does not see node 0's folder: without a shared file system each node sends what its ranks wrote.
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

import torch.distributed as dist
from torchtitan.tools.logging import logger

from titan_speech.checkpoint.commit import FreeSpace, Kind
from titan_speech.checkpoint.upload.job import UploadJob, is_first_of_node, node_number
from titan_speech.checkpoint.upload.status import STATUS_DIR, UploadStatus, read_status, status_path
from titan_speech.config.problem import redact
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_operations import UploadConfig

COMMAND = (sys.executable, "-m", "titan_speech.checkpoint.upload.worker")
RESTART_SEC = 30.0
SAY_EVERY_SEC = 30.0


@dataclass(frozen=True)
class Outcome:
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
        self._told = UploadStatus(to=job.upload.to)
        self._is_closed = False
        self._started_at, self._process = 0.0, self._start()

    @property
    def status(self) -> UploadStatus:
        return read_status(self._path) or self._told

    def figures(self) -> dict[str, float]:
        """For the metrics of a log step; starts the process again if it died, and says what is new."""
        self._keep_alive()
        status = self.status
        self._tell(status)
        return {
            "upload/num_waiting": len(status.waiting),
            "upload/waiting_bytes": status.left_bytes,
            "upload/oldest_age_sec": status.oldest_age_sec,
            "upload/num_failures": status.num_failures,
        }

    def finish(self, limit_sec: float) -> Outcome:
        """Waits until everything is at the address, at most so long."""
        self._keep_alive()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write("finish\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + limit_sec
        due = time.monotonic() + SAY_EVERY_SEC
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            if time.monotonic() >= due:
                due += SAY_EVERY_SEC
                logger.info(f"The end of the run waits for uploads: {_progress(self.status)}.")
        self.close()
        return self._outcome()

    def close(self) -> None:
        """It ends now, and is not started again; what it has sent stays."""
        self._is_closed = True
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _outcome(self) -> Outcome:
        status = self.status
        if not status.waiting and self._process.returncode == 0:
            left_out = f", but for: {'; '.join(status.left_out)}" if status.left_out else ""
            return Outcome(not left_out, f"All checkpoints are at {self.job.upload.to}{left_out}.")
        error = f" The last error: {status.last_error}" if status.last_error else ""
        return Outcome(
            False,
            f"NOT everything is at {self.job.upload.to}: {_progress(status)}. To send the rest, start the run again or "
            f"use: titan-speech checkpoint push {self.job.run} {self.job.upload.to}.{error}",
        )

    def _start(self) -> subprocess.Popen[str]:
        self._started_at = time.monotonic()
        (self.job.run / STATUS_DIR).mkdir(parents=True, exist_ok=True)
        with (self.job.run / STATUS_DIR / f"node-{self.job.node}.log").open("a") as log:
            process = subprocess.Popen(
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
            logger.warning(f"The uploading process ended with code {self._process.returncode}; it is started again.")
            try:
                self._process = self._start()
            except OSError as error:
                logger.warning(f"The uploading process could not be started: {error}. Training goes on.")

    def _tell(self, status: UploadStatus) -> None:
        """What changed since the last time."""
        for name in status.complete:
            if name not in self._told.complete and name in self._told.waiting:
                logger.info(f"Checkpoint {name} is complete at {self.job.upload.to}.")
        if status.last_error and status.last_error != self._told.last_error:
            logger.warning(f"Uploads wait, training goes on ({_progress(status)}): {redact(status.last_error)}")
        self._told = status


def _progress(status: UploadStatus) -> str:
    if not status.waiting:
        return "nothing waits"
    return f"{', '.join(status.waiting[:8])} left, {status.left_bytes / 1e6:,.1f} MB"


def waiting_steps(run: Path, upload: UploadConfig, kinds: Mapping[int, Kind]) -> frozenset[int]:
    """Of the checkpoints in `kinds`, by step; what the uploader has not seen yet waits too."""
    if not upload.to or upload.keep == "policy":
        return frozenset()
    status = read_status(status_path(run))
    is_there = set(status.complete) - set(status.waiting) if status else set()
    return frozenset(step for step, kind in kinds.items() if kind in upload.kinds and f"step-{step}" not in is_there)


def start_uploads(config: SpeechConfig, disks: FreeSpace) -> Uploader | None:
    """None where another process sends, or there is nothing to be sent."""
    table, rank = config.checkpoint, dist.get_rank()
    if not config.upload.to or not table.enable or table.create_seed_checkpoint or not is_first_of_node():
        return None
    if rank != 0 and disks.sees_rank_0[rank]:
        return None
    num_nodes = 1 if disks.are_shared else dist.get_world_size() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Uploader(UploadJob.of_run(config, node_number(), num_nodes))
