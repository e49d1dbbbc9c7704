"""What stays at the address.

In: what is complete there, the run's policy and its pins. Out: names of checkpoints that were removed. The policy is
that of the run's own folder ([checkpoint] keep_last_full, keep_last_model_only, milestones, pins); what became weights
only here is sent again as such, so an address holds what a folder would. Of checkpoints that only the address has,
those the policy would reduce to weights stay whole until it removes them.

One look at the folder, and what follows from it.

In: an `UploadJob`. Out: a turn sends what waits, completes what other nodes have sent their parts of, and removes at
the address what the policy no longer keeps. What is remembered from turn to turn saves requests, and holds the leases
of what is on its way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from titan_speech.checkpoint.retention import Kept, pinned_steps, removal
from titan_speech.checkpoint.upload.job import UploadJob, claim, join
from titan_speech.checkpoint.upload.local import (
    HF,
    LocalCheckpoint,
    hf_folders,
    local_checkpoint,
    local_checkpoints,
    next_to_send,
)
from titan_speech.checkpoint.upload.remote import Prefix, SentCheckpoint, SentFile
from titan_speech.checkpoint.upload.send import (
    DamagedCheckpointError,
    Sender,
    has_more,
    has_part,
    is_sent,
    remove_stale_objects,
)
from titan_speech.checkpoint.upload.status import StatusBoard, status_path
from titan_speech.errors import CheckpointError
from titan_speech.storage.retry import RateLimiter


def remove_unkept(prefix: Prefix, sent: Collection[SentCheckpoint], job: UploadJob) -> list[str]:
    """Names of what is there no more."""
    newest = newest_step(job.checkpoints)
    pinned = pinned_steps(job.checkpoints)
    ours = {one.step: one for one in sent if one.name == f"step-{one.step}" and one.step <= newest}
    kept = [
        Kept(one.step, "full" if one.kind == "full" else "model", True, one.step in pinned) for one in ours.values()
    ]
    names = [ours[step].name for step in removal(kept, job.policy).delete]
    for name in names:
        prefix.remove(name)
    return names


def newest_step(folder: Path) -> int:
    """Of what was written last here; newer ones at the address are of a branch that was left, and count for nothing."""
    found = local_checkpoints(folder, ("full", "model"))
    return max(found, key=lambda one: one.written_unix_sec).step if found else -1


logger = logging.getLogger(__name__)

AWAIT_SEC = 1800.0
"""Other nodes' files are waited for longer only if nothing newer is complete: their node may be gone for ever."""


@dataclass
class _Begun:
    """A checkpoint of which this node has sent its files, or is sending them."""

    checkpoint: LocalCheckpoint
    before: tuple[SentFile, ...]
    lease: ExitStack
    there: dict[str, SentFile] = field(default_factory=dict)
    """Objects of all nodes that were seen."""

    is_mine_sent: bool = False
    came_at_sec: float = 0.0
    """When the last object came, by the monotonic clock."""


class UploadPass:
    """What one uploading process does, again and again."""

    def __init__(self, job: UploadJob) -> None:
        self.job, self.board = job, StatusBoard(status_path(job.run, job.node), job.upload.to)
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
        return bool(self.board.status.waiting)

    def run(self) -> None:
        """
        Raises:
            DataError, CheckpointError: something failed; what was sent stays.
        """
        self._show()
        sender = self._open()
        while (one := self._next()) is not None and self._send(sender, one):
            self._complete(sender)
        self._complete(sender)
        if self.job.completes and self.job.upload.keep == "policy":
            for name in remove_unkept(sender.prefix, self.sent.values(), self.job):
                del self.sent[name]
        self._show()
        self._clean(sender)
        self.board.succeeded(list(self._left_out.values()))

    def _clean(self, sender: Sender) -> None:
        """Once a process, when nothing waits any more."""
        if self.job.completes and not self._is_clean and not self.is_waiting:
            remove_stale_objects(sender.prefix, {one.name for one in self._here()})
            self._is_clean = True

    def failed(self, error: Exception) -> None:
        """The next turn begins with a new client."""
        self._sender = None
        self._show()
        self.board.failed(str(error) or repr(error))

    def _open(self) -> Sender:
        """Credentials are read anew, and what is complete, after each failure; by other nodes at each turn."""
        if self._sender is None:
            prefix = self.job.prefix(anew=self.board.status.num_failures > 0)
            (claim if self.job.completes else join)(self.job, prefix)
            self.sent = _sound(prefix, {})
            self._sender = Sender(prefix, self._pace, int(self.job.upload.part_mb * 1e6))
        elif self.is_waiting and not self.job.completes:
            known = {name: one for name, one in self.sent.items() if name not in self.board.status.waiting}
            self.sent = _sound(self._sender.prefix, known)
        return self._sender

    def _waiting(self) -> list[LocalCheckpoint]:
        """By rising step; leases of what is gone, replaced or complete are given back."""
        found = [one for one in self._here() if one.marker_sha256 not in self._left_out and not self._is_complete(one)]
        markers = {one.marker_sha256 for one in found}
        for name, begun in list(self._begun.items()):
            if begun.checkpoint.marker_sha256 not in markers:
                self._begun.pop(name).lease.close()
        return found

    def _here(self) -> list[LocalCheckpoint]:
        """Of the kinds that go up; Hugging Face folders lie on the node of rank 0."""
        kinds, has_hf = self.job.upload.kinds, self.job.completes and HF in self.job.upload.kinds
        return local_checkpoints(self.job.checkpoints, kinds) + (hf_folders(self.job.run) if has_hf else [])

    def _is_complete(self, one: LocalCheckpoint) -> bool:
        there = self.sent.get(one.name)
        return there is not None and self._is_same(there, one)

    def _is_same(self, there: SentCheckpoint, one: LocalCheckpoint) -> bool:
        if self.job.upload.keep == "all" and has_more(there, one):
            return True
        return is_sent(there, one) if self.job.completes else has_part(there, one)

    def _next(self) -> LocalCheckpoint | None:
        """Of what this node has not sent its files of."""
        sent = {name for name, begun in self._begun.items() if begun.is_mine_sent}
        begun = next((name for name in self._begun if name not in sent), None)
        return next_to_send([one for one in self._waiting() if one.name not in sent], self._newest_sent(), begun)

    def _send(self, sender: Sender, one: LocalCheckpoint) -> bool:
        """False if it has to wait for a later turn."""
        begun = self._begun.get(one.name) or self._begin(sender, one)
        if begun is None:
            return False
        self.board.begin(one.name)
        self._show()
        try:
            for file in sender.send_files(one, self.job.num_nodes == 1, self.board.add_sent):
                begun.there[file.path] = file
        except (DamagedCheckpointError, FileNotFoundError) as error:
            self._leave_out(one, error)
        begun.is_mine_sent = True
        self.board.end()
        return True

    def _begin(self, sender: Sender, one: LocalCheckpoint) -> _Begun | None:
        """None if retention has it, or if another checkpoint of its name still counts and is not this node's to end."""
        lease = ExitStack()
        if not lease.enter_context(one.kept()):
            lease.close()
            return None
        if not self.job.completes and not self._may_replace(sender, one):
            lease.close()
            return None
        before = sender.stop_counting(one) if self.job.completes else ()
        if before:
            self.sent.pop(one.name, None)
        self._begun[one.name] = begun = _Begun(one, before, lease)
        return begun

    def _may_replace(self, sender: Sender, one: LocalCheckpoint) -> bool:
        there = sender.prefix.find(one.name)
        return there is None or self._is_same(there, one)

    def _leave_out(self, one: LocalCheckpoint, error: Exception) -> None:
        """Unless it was replaced or deleted meanwhile."""
        now = local_checkpoint(one.path) if one.kind != HF else None
        if now is not None and now.marker_sha256 == one.marker_sha256:
            self._left_out[one.marker_sha256] = str(error)
            logger.error("%s", error)

    def _complete(self, sender: Sender) -> None:
        """Of what was begun, whatever all nodes have sent."""
        for begun in list(self._begun.values()) if self.job.completes else ():
            one, num_there = begun.checkpoint, len(begun.there)
            if not begun.is_mine_sent or one.marker_sha256 in self._left_out:
                continue
            sent = sender.complete(one, begun.there, begun.before)
            if sent is not None:
                self.sent[sent.name] = sent
            elif len(begun.there) > num_there or not begun.came_at_sec:
                begun.came_at_sec = time.monotonic()
            elif time.monotonic() - begun.came_at_sec > AWAIT_SEC and self._newest_sent() > one.step:
                self._left_out[one.marker_sha256] = f"{one.name}: the files of other nodes did not come"
        self._show()

    def _newest_sent(self) -> int:
        return max((one.step for one in self.sent.values() if one.kind == "full"), default=-1)

    def _show(self) -> None:
        waiting = self._waiting()
        self.board.show(waiting, sorted(self._begun), list(self.sent))


def _sound(prefix: Prefix, known: Mapping[str, SentCheckpoint]) -> dict[str, SentCheckpoint]:
    """A damaged manifest makes nothing complete; it is written again from here if its checkpoint is here."""
    found = {}
    for name in prefix.names():
        try:
            found[name] = known.get(name) or prefix.read(name)
        except CheckpointError as error:
            logger.warning("%s", error)
    return found
