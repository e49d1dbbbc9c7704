"""An address for people: `titan-speech checkpoint list s3://bucket/prefix`.

In: an address. Out: text: what is complete there, and what lies there without counting.

What the uploader says of itself: one small file, replaced whole.

In: figures of the uploading process. Out: `RUN/upload/node-0.json`, which the trainer reads at log steps and
`checkpoint list` at any time. Nobody waits for anybody.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

from titan_speech.checkpoint.upload.local import LocalCheckpoint
from titan_speech.checkpoint.upload.remote import Prefix
from titan_speech.checkpoint.upload.send import stale_objects
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import CheckpointError
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.utils.text_table import size_text, table_lines

HEADER = ("name", "kind", "files", "size")


def address_text(place: str, storage: StorageConfig) -> str:
    """A line a checkpoint, and what else lies there.

    Raises:
        CheckpointError: there is nothing of a run.
        DataError: the server cannot be reached.
    """
    prefix = Prefix(client_of(storage), S3Url.parse(place))
    complete = [prefix.read(name) for name in prefix.names()]
    rest = stale_objects(prefix)
    if not complete and not rest and prefix.run_id() is None:
        raise CheckpointError(f"{place}: no checkpoints there; expected the upload.to of a run")
    rows = [(one.name, one.kind, str(len(one.files)), size_text(one.num_bytes)) for one in complete]
    lines = table_lines([HEADER, *rows]) if rows else ["no complete checkpoint"]
    lines += [f"not complete: {one}: on its way now, or left by an upload that was stopped" for one in rest]
    return "\n".join(lines)


logger = logging.getLogger(__name__)

STATUS_DIR = "upload"
WRITE_EVERY_SEC = 0.5


@dataclass(frozen=True)
class UploadStatus:
    """The state of one node's uploads."""

    to: str
    """The address."""

    sending: str = ""
    """Checkpoint that is on its way now."""

    sent_bytes: int = 0
    """Bytes of it that are there."""

    waiting: tuple[str, ...] = ()
    """Checkpoints that are not at the address yet, the one on its way included."""

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
    """Attempts that failed since the process began."""

    last_error: str = ""
    """Why the last attempt failed; empty once one succeeded."""

    @property
    def left_bytes(self) -> int:
        return max(0, self.waiting_bytes - self.sent_bytes)

    def state_of(self, name: str) -> str:
        """A word or two for a checkpoint."""
        if name == self.sending:
            return f"on its way, {self.sent_bytes / 1e6:,.0f} MB sent"
        if name in self.waiting:
            return "its part is sent" if name in self.in_use else "waits"
        return "complete" if name in self.complete else ""

    @property
    def oldest_age_sec(self) -> float:
        return max(0.0, time.time() - self.oldest_unix_sec) if self.waiting else 0.0


def status_path(run: Path, node: int = 0) -> Path:
    return run / STATUS_DIR / f"node-{node}.json"


def read_status(path: Path) -> UploadStatus | None:
    """None where there is none, or none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = {key: tuple(record[key]) for key in ("waiting", "in_use", "complete", "left_out")}
        return UploadStatus(**{**record, **names})
    except (OSError, ValueError, TypeError, KeyError):
        return None


class StatusBoard:
    """The status as it changes, from any thread; a disk that is full costs the file, not the upload."""

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
        self._due = time.monotonic() + WRITE_EVERY_SEC
        partial = self._path.with_name(f"{self._path.name}.partial")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(asdict(self.status)), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            logger.warning("the status cannot be written: %s", error)
