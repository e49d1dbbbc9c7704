"""What passes between training and its uploading process: the job, and the status.

In: the [upload], [storage] and [checkpoint] config.
Out: an `UploadJob`, one line of JSON on the stdin of the uploading process; and `RUN/upload/node-0.json`, an
`UploadStatus` that the process replaces as a whole, and that the trainer reads at log steps and `checkpoint list` at
any time. Nobody waits for anybody.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from titan_speech.checkpoint.commit import committed_steps
from titan_speech.checkpoint.retention import RetentionPolicy
from titan_speech.checkpoint.upload.remote import Prefix
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import StorageConfig
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.distributed.plain_values import from_text, to_text
from titan_speech.errors import CheckpointError
from titan_speech.storage.s3 import Client, client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.utils.files import write_atomically

if TYPE_CHECKING:
    from titan_speech.checkpoint.upload.send import LocalCheckpoint

logger = logging.getLogger(__name__)

STATUS_DIR = "upload"
RUN_ID = "run.id"
KEEP_ALL = RetentionPolicy(keep_last_full=0, keep_last_model_only=0, milestone_every_steps=0)
WRITE_EVERY_SEC = 0.5


@dataclass(frozen=True)
class UploadJob:
    """One node's part of a run's uploads."""

    run: Path
    checkpoints: Path
    upload: UploadConfig
    storage: StorageConfig
    policy: RetentionPolicy = KEEP_ALL
    """What is kept at the address, with upload.keep = "policy"."""

    node: int = 0
    """Number of the node; node 0, that of rank 0, writes the manifests and removes what the policy does not keep."""

    num_nodes: int = 1
    """Nodes that have files of their own, which others do not see."""

    @classmethod
    def of_run(cls, config: SpeechConfig, node: int, num_nodes: int = 1) -> UploadJob:
        run, policy = Path(config.job.dump_folder).absolute(), RetentionPolicy.from_config(config.checkpoint)
        return cls(run, run / config.checkpoint.folder, config.upload, config.storage, policy, node, num_nodes)

    @property
    def writes_manifests(self) -> bool:
        return self.node == 0

    @property
    def run_id_path(self) -> Path:
        return self.run / STATUS_DIR / RUN_ID

    def prefix(self, refresh: bool = False) -> Prefix:
        """The address; `refresh`: re-read credentials."""
        storage = replace(self.storage, num_connections=self.upload.num_connections)
        return Prefix(Client(storage) if refresh else client_of(storage), S3Url.parse(self.upload.to))

    def to_json(self) -> str:
        return to_text(self)

    @classmethod
    def from_json(cls, text: str) -> UploadJob:
        return from_text(text, cls, UploadConfig, StorageConfig, RetentionPolicy)


def claim(job: UploadJob, prefix: Prefix) -> None:
    """Make sure that the address belongs to this run, or claim it; called by the node of rank 0.

    A run without checkpoints of its own becomes the run whose checkpoints are there.

    Raises:
        CheckpointError: the checkpoints there are another run's.
    """
    ours, theirs = _run_id(job), prefix.run_id()
    if theirs is None:
        ours = ours or uuid.uuid4().hex
        write_atomically(job.run_id_path, ours + "\n")
        prefix.claim(ours)
    elif not ours and not committed_steps(job.checkpoints):
        write_atomically(job.run_id_path, theirs + "\n")
    elif ours != theirs:
        raise _another_run(job, theirs)


def join(job: UploadJob, prefix: Prefix) -> None:
    """Note whose checkpoints are at the address, on the other nodes: one of them may be node 0 after a restart.

    Raises:
        CheckpointError: its folder is another run's.
    """
    ours, theirs = _run_id(job), prefix.run_id()
    if theirs is not None and not ours:
        write_atomically(job.run_id_path, theirs + "\n")
    elif theirs != (ours or None):
        raise _another_run(job, str(theirs))


def _run_id(job: UploadJob) -> str:
    return job.run_id_path.read_text(encoding="utf-8").strip() if job.run_id_path.is_file() else ""


def _another_run(job: UploadJob, theirs: str) -> CheckpointError:
    return CheckpointError(
        f"upload.to = {job.upload.to!r} holds the checkpoints of another run than {job.run}; give this run a prefix of "
        f"its own, or, if it is the same run, write {theirs} into {job.run_id_path}"
    )


@dataclass(frozen=True)
class UploadStatus:
    """The state of one node's uploads."""

    to: str
    """The address."""

    sending: str = ""
    """Checkpoint that is being sent."""

    sent_bytes: int = 0
    """Bytes of it that have arrived."""

    waiting: tuple[str, ...] = ()
    """Checkpoints that are not complete at the address yet, the one being sent included."""

    waiting_bytes: int = 0
    """Their size."""

    oldest_unix_sec: float = 0.0
    """When the oldest of them was complete here."""

    in_use: tuple[str, ...] = ()
    """Checkpoints whose files it reads, or waits for other nodes to send."""

    complete: tuple[str, ...] = ()
    """Checkpoints that are complete at the address."""

    left_out: tuple[str, ...] = ()
    """Why damaged checkpoints are not sent."""

    num_failures: int = 0
    """Attempts that failed since the process started."""

    last_error: str = ""
    """Why the last attempt failed; empty once one succeeded."""

    @property
    def left_bytes(self) -> int:
        return max(0, self.waiting_bytes - self.sent_bytes)

    @property
    def oldest_age_sec(self) -> float:
        return max(0.0, time.time() - self.oldest_unix_sec) if self.waiting else 0.0

    def state_of(self, name: str) -> str:
        """A few words on one checkpoint; empty if it is not uploaded at all."""
        if name == self.sending:
            return f"being sent, {self.sent_bytes / 1e6:,.0f} MB sent"
        if name in self.waiting:
            return "its part is sent" if name in self.in_use else "waits"
        return "complete" if name in self.complete else ""


def status_path(run: Path, node: int = 0) -> Path:
    return run / STATUS_DIR / f"node-{node}.json"


def read_status(path: Path) -> UploadStatus | None:
    """The status, or None if the file is missing or cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = {key: tuple(record[key]) for key in ("waiting", "in_use", "complete", "left_out")}
        return UploadStatus(**{**record, **names})
    except (OSError, ValueError, TypeError, KeyError):
        return None


class StatusWriter:
    """Writes the status as it changes, from any thread; a full disk costs the file, not the upload."""

    def __init__(self, path: Path, to: str) -> None:
        self._path, self._lock, self._due = path, Lock(), 0.0
        self.status = UploadStatus(to)

    def add_sent(self, num_bytes: int) -> None:
        with self._lock:
            self.status = replace(self.status, sent_bytes=self.status.sent_bytes + num_bytes)
            if time.monotonic() >= self._due:
                self._write()

    def begin(self, name: str) -> None:
        self._change(sending=name, sent_bytes=0)

    def end(self) -> None:
        self._change(sending="", sent_bytes=0)

    def show(self, waiting: Sequence[LocalCheckpoint], in_use: Sequence[str], complete: Sequence[str]) -> None:
        self._change(
            waiting=tuple(one.name for one in waiting),
            waiting_bytes=sum(one.num_bytes for one in waiting),
            oldest_unix_sec=min((one.written_unix_sec for one in waiting), default=0.0),
            in_use=tuple(in_use),
            complete=tuple(complete),
        )

    def failed(self, error: str) -> None:
        self._change(last_error=error, num_failures=self.status.num_failures + 1)

    def succeeded(self, left_out: Sequence[str]) -> None:
        self._change(last_error="", left_out=tuple(left_out))

    def _change(self, **changes: object) -> None:
        with self._lock:
            now = replace(self.status, **changes)
            if now != self.status or not self._due:
                self.status = now
                self._write()

    def _write(self) -> None:
        """Whole, but not flushed to disk: it is written twice per second, and says nothing after a power cut."""
        self._due = time.monotonic() + WRITE_EVERY_SEC
        partial = self._path.with_name(f"{self._path.name}.partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(self.status)), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            logger.warning("the status cannot be written: %s", error)
