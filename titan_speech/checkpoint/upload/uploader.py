"""The uploading process of a node: sends what is complete in the folder until training asks it to finish.

In: an `UploadJob` as the first line of stdin; a line "finish" when nothing more will come.
Out: checkpoints at the address, a status file, and exit code 0 when nothing waits any more. A pass sends what waits,
completes the checkpoints whose parts all nodes have sent, and removes at the address what the policy no longer keeps.

It is a process of its own, so hashing and sending take no time from training's interpreter, and nothing that happens to
it happens to training; it ends by itself when training is gone. Failures are reported in the status and tried again
after 1, 2, 4 .. 60 s; a damaged checkpoint is left out.

The policy at the address is that of the run's own folder ([checkpoint] keep_last_full, keep_last_model_only,
milestones, pins); a checkpoint that was reduced to its weights here is sent again as such, so an address holds what a
folder would. Of checkpoints that only the address has, those the policy would reduce to weights stay full until it
removes them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from titan_speech.checkpoint.commit import step_name
from titan_speech.checkpoint.retention import StoredCheckpoint, choose_removal, pinned_steps
from titan_speech.checkpoint.upload.job import StatusWriter, UploadJob, claim, join, status_path
from titan_speech.checkpoint.upload.remote import Prefix, SentCheckpoint, SentFile, remove_stale_objects
from titan_speech.checkpoint.upload.send import (
    HF,
    DamagedCheckpointError,
    LocalCheckpoint,
    Sender,
    has_more,
    has_part,
    hf_folders,
    is_sent,
    local_checkpoint,
    local_checkpoints,
    next_to_send,
)
from titan_speech.errors import CheckpointError
from titan_speech.ledger.span_file import Span, SpanFile, spans_file
from titan_speech.storage.retry import RateLimiter
from titan_speech.utils.logging import silence_library_warnings
from titan_speech.utils.printable import make_log_records_printable

logger = logging.getLogger(__name__)

AWAIT_SEC = 1800.0
"""Other nodes' files are waited for longer only if nothing newer is complete: their node may be gone for ever."""

POLL_SEC, LONGEST_WAIT_SEC = 1.0, 60.0
NICENESS = 10


@dataclass
class _Begun:
    """A checkpoint of which this node has sent its files, or is sending them."""

    checkpoint: LocalCheckpoint
    before: tuple[SentFile, ...]
    lock: ExitStack
    """Keeps retention from removing it."""
    there: dict[str, SentFile] = field(default_factory=dict)
    """Objects of all nodes that were seen."""

    is_mine_sent: bool = False
    newest_object_sec: float = 0.0
    """When the last object was seen to arrive, by the monotonic clock."""


class UploadPass:
    """What one uploading process does again and again; state kept between passes saves requests."""

    def __init__(self, job: UploadJob) -> None:
        self.job, self.status = job, StatusWriter(status_path(job.run, job.node), job.upload.to)
        self._spans = SpanFile(spans_file(job.run, f"uploads-{job.node}"))
        self.sent: dict[str, SentCheckpoint] = {}
        """What is complete at the address."""
        self._pace = RateLimiter(job.upload.bandwidth_mb_per_sec * 1e6)
        self._sender: Sender | None = None
        self._begun: dict[str, _Begun] = {}
        self._left_out: dict[str, str] = {}
        """Why, by the marker's sha256."""
        self._is_clean = False

    @property
    def is_waiting(self) -> bool:
        return bool(self.status.status.waiting)

    def run(self) -> None:
        """Send, complete and remove.

        Raises:
            DataError, CheckpointError: something failed; what was sent stays.
        """
        self._show()
        sender = self._open()
        while (one := self._next()) is not None and self._send(sender, one):
            self._complete(sender)
        self._complete(sender)
        if self.job.writes_manifests and self.job.upload.keep == "policy":
            for name in remove_unkept(sender.prefix, self.sent.values(), self.job):
                del self.sent[name]
        self._show()
        if self.job.writes_manifests and not self._is_clean and not self.is_waiting:  # once per process
            remove_stale_objects(sender.prefix, {one.name for one in self._here()})
            self._is_clean = True
        self.status.succeeded(list(self._left_out.values()))

    def failed(self, error: Exception) -> None:
        """Report a failure; the next pass uses a new client."""
        self._sender = None
        self._show()
        self.status.failed(str(error) or repr(error))

    def _open(self) -> Sender:
        """Credentials and manifests are read again after each failure; manifests by other nodes in each pass."""
        if self._sender is None:
            prefix = self.job.prefix(refresh=self.status.status.num_failures > 0)
            (claim if self.job.writes_manifests else join)(self.job, prefix)
            self.sent = _read_manifests(prefix, {})
            self._sender = Sender(prefix, self._pace, int(self.job.upload.part_mb * 1e6))
        elif self.is_waiting and not self.job.writes_manifests:
            known = {name: one for name, one in self.sent.items() if name not in self.status.status.waiting}
            self.sent = _read_manifests(self._sender.prefix, known)
        return self._sender

    def _waiting(self) -> list[LocalCheckpoint]:
        """Checkpoints that are not complete at the address, by rising step; releases the locks of all others."""
        found = [
            one
            for one in self._here()
            if one.marker_sha256 not in self._left_out and not self._is_same(self.sent.get(one.name), one)
        ]
        markers = {one.marker_sha256 for one in found}
        for name, begun in list(self._begun.items()):
            if begun.checkpoint.marker_sha256 not in markers:
                self._begun.pop(name).lock.close()
        return found

    def _here(self) -> list[LocalCheckpoint]:
        """Checkpoints of the kinds that are uploaded; Hugging Face folders are on the node of rank 0."""
        kinds, has_hf = self.job.upload.kinds, self.job.writes_manifests and HF in self.job.upload.kinds
        return local_checkpoints(self.job.checkpoints, kinds) + (hf_folders(self.job.run) if has_hf else [])

    def _is_same(self, there: SentCheckpoint | None, one: LocalCheckpoint) -> bool:
        """Whether what is complete there is this checkpoint, or all of it and more."""
        if there is None:
            return False
        if self.job.upload.keep == "all" and has_more(there, one):
            return True
        return is_sent(there, one) if self.job.writes_manifests else has_part(there, one)

    def _next(self) -> LocalCheckpoint | None:
        """The next checkpoint to send, of those whose files this node has not sent."""
        sent = {name for name, begun in self._begun.items() if begun.is_mine_sent}
        begun = next((name for name in self._begun if name not in sent), None)
        return next_to_send([one for one in self._waiting() if one.name not in sent], self._newest_sent(), begun)

    def _send(self, sender: Sender, one: LocalCheckpoint) -> bool:
        """False if it has to wait for a later pass."""
        begun = self._begun.get(one.name) or self._begin(sender, one)
        if begun is None:
            return False
        self.status.begin(one.name)
        self._show()
        began_sec = time.time()
        try:
            for file in sender.send_files(one, self.job.num_nodes == 1, self.status.add_sent):
                begun.there[file.path] = file
        except (DamagedCheckpointError, FileNotFoundError) as error:
            self._leave_out(one, error)
        begun.is_mine_sent = True
        self._spans.add(Span(f"upload {one.name}", began_sec, time.time() - began_sec, "uploads", one.step))
        self._spans.flush()
        self.status.end()
        return True

    def _begin(self, sender: Sender, one: LocalCheckpoint) -> _Begun | None:
        """Lock a checkpoint; None while retention holds it, or until node 0 has revoked another one of its name."""
        lock = ExitStack()
        if not lock.enter_context(one.lock_for_reading()):
            lock.close()
            return None
        if not self.job.writes_manifests:
            there = sender.prefix.find(one.name)
            if there is not None and not self._is_same(there, one):
                lock.close()
                return None
        before = sender.revoke_other(one) if self.job.writes_manifests else ()
        if before:
            self.sent.pop(one.name, None)
        self._begun[one.name] = begun = _Begun(one, before, lock)
        return begun

    def _leave_out(self, one: LocalCheckpoint, error: Exception) -> None:
        """Do not send a damaged checkpoint again, unless it was replaced or deleted meanwhile."""
        now = local_checkpoint(one.path) if one.kind != HF else None
        if now is not None and now.marker_sha256 == one.marker_sha256:
            self._left_out[one.marker_sha256] = str(error)
            logger.error("%s", error)

    def _complete(self, sender: Sender) -> None:
        """Complete the checkpoints whose parts every node has uploaded."""
        for begun in list(self._begun.values()) if self.job.writes_manifests else ():
            one, num_there = begun.checkpoint, len(begun.there)
            if not begun.is_mine_sent or one.marker_sha256 in self._left_out:
                continue
            sent = sender.complete(one, begun.there, begun.before)
            if sent is not None:
                self.sent[sent.name] = sent
            elif len(begun.there) > num_there or not begun.newest_object_sec:
                begun.newest_object_sec = time.monotonic()
            elif time.monotonic() - begun.newest_object_sec > AWAIT_SEC and self._newest_sent() > one.step:
                self._left_out[one.marker_sha256] = f"{one.name}: the files of other nodes did not arrive"
        self._show()

    def _newest_sent(self) -> int:
        return max((one.step for one in self.sent.values() if one.kind == "full"), default=-1)

    def _show(self) -> None:
        waiting = self._waiting()
        self.status.show(waiting, sorted(self._begun), list(self.sent))


def _read_manifests(prefix: Prefix, known: Mapping[str, SentCheckpoint]) -> dict[str, SentCheckpoint]:
    """What is complete; a checkpoint whose manifest is damaged is not, and is sent again if it is here."""
    found = {}
    for name in prefix.names():
        try:
            found[name] = known.get(name) or prefix.read(name)
        except CheckpointError as error:
            logger.warning("%s", error)
    return found


def remove_unkept(prefix: Prefix, sent: Collection[SentCheckpoint], job: UploadJob) -> list[str]:
    """Delete at the address what the policy of the run no longer keeps.

    Returns:
        Names of the checkpoints that were deleted.
    """
    newest, pinned = newest_step(job.checkpoints), pinned_steps(job.checkpoints)
    ours = {one.step: one for one in sent if one.name == step_name(one.step) and one.step <= newest}
    stored = [
        StoredCheckpoint(
            one.step,
            "full" if one.kind == "full" else "model",
            is_pinned=one.step in pinned,
            is_suspect=bool(one.suspect),
        )
        for one in ours.values()
    ]
    names = [ours[step].name for step in choose_removal(stored, job.policy).delete]
    for name in names:
        prefix.remove(name)
    return names


def newest_step(folder: Path) -> int:
    """Step of what was written last here, or -1; newer ones at the address are of a branch that was left."""
    found = local_checkpoints(folder, ("full", "model"))
    return max(found, key=lambda one: one.written_unix_sec).step if found else -1


class Parent:
    """The training process: whether it asked to finish. Ends this process when it is gone."""

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
    """Upload until nothing waits and nothing more will come."""
    uploads, num_failures = UploadPass(job), 0
    while True:
        is_last = parent.wants_finish.is_set()
        try:
            uploads.run()
            num_failures = 0
        except Exception as error:  # anything but the end of training is worth another attempt
            num_failures += 1
            uploads.failed(error)
            logger.exception("an upload failed")
        if is_last and not num_failures and not uploads.is_waiting:
            return
        wait_sec = min(LONGEST_WAIT_SEC, 2.0 ** (num_failures - 1)) if num_failures else POLL_SEC
        if is_last:
            time.sleep(wait_sec)
        else:
            parent.wants_finish.wait(wait_sec)


def main() -> int:
    make_log_records_printable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signal_number, signal.SIG_IGN)  # schedulers send them to every process; training decides
    silence_library_warnings()
    job = UploadJob.from_json(sys.stdin.readline())
    os.nice(NICENESS)
    work(job, Parent())
    return 0


if __name__ == "__main__":
    sys.exit(main())
