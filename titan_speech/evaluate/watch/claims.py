"""Which worker does which evaluation, and its result: each is done once, whoever is killed when.

In: a shared folder (on disk or in object storage) and the key of a piece of work. Out: `results/KEY.json`, written
once; `claims/KEY.json` while a worker is at it.

A worker creates the claim, counts up a number in it every few seconds, and deletes it when the result is there. Work
that fails is given back by writing so over the worker's own claim: a deletion could hit the claim of one who took over
meanwhile, and a third would do the work again. Whoever finds a claim of another watches it: one whose number has stood
still for `LEASE_SEC` by the watcher's own clock belongs to a worker that is gone, and is taken over, by a conditional
write that only one of several can win. No clock is compared with another. A worker that was only slow finds its claim
taken and continues; its result and the other's are of the same work, and the first one stays. Work that was begun
`MAX_ATTEMPTS` times and never ended (a checkpoint that takes more memory than there is) is given up with a result that
says so.

Results are written by `create`, which has one winner even on a shared file system whose locks are local to a machine
(storage/shared_files.py); there two workers may take over one claim, which costs a repetition and doubles no result.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from titan_speech.errors import DataError, TitanSpeechError
from titan_speech.evaluate.result import RESULTS_DIR, claim_path, result_path
from titan_speech.storage.shared_files import SharedFolder, VersionedFile
from titan_speech.utils.json_text import parse_json
from titan_speech.utils.locks import Holder
from titan_speech.utils.printable import one_line
from titan_speech.utils.record_types import check_types

logger = logging.getLogger(__name__)

LEASE_SEC, BEAT_SEC = 60.0, 10.0
MAX_ATTEMPTS = 5


@dataclass(frozen=True)
class Claim:
    """The record of a claim."""

    worker: str
    token: str
    """Of this claim alone: two claims never have the same content."""
    attempt: int = 1
    beats: int = 0
    is_free: bool = False
    """Its worker has given the work back."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def _claim_in(content: bytes) -> Claim | None:
    """The record; None if it is damaged, which is watched and taken over like any other."""
    try:
        claim = Claim(**parse_json(content))
        check_types(claim)
        return claim
    except (ValueError, TypeError, TitanSpeechError):
        return None


def _is_of(claim: Claim, found: VersionedFile) -> bool:
    """Whether a file that was read is this claim, at whatever beat."""
    record = _claim_in(found.content)
    return record is not None and record.token == claim.token


@dataclass
class WorkQueue:
    """Pieces of work that several workers share."""

    folder: SharedFolder
    worker: str = field(default_factory=lambda: str(Holder.this_process()))
    lease_sec: float = LEASE_SEC
    beat_sec: float = BEAT_SEC
    max_attempts: int = MAX_ATTEMPTS
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By key: the version of another's claim, and when it was first seen (monotonic seconds)."""

    def result(self, key: str) -> dict[str, Any] | None:
        """The result of a key; None until it exists.

        Raises:
            DataError: it is damaged.
        """
        found = self.folder.read(result_path(key))
        if found is None:
            return None
        try:
            content = parse_json(found.content)
            if not isinstance(content, dict):
                raise ValueError(f"found {type(content).__name__}, expected an object")
            return content
        except ValueError as error:
            raise DataError(f"the result {key} is damaged ({error}); delete it, and it is made again") from error

    def done(self) -> set[str]:
        """Keys that have a result."""
        return {name.removesuffix(".json") for name in self.folder.names(RESULTS_DIR)}

    def publish(self, key: str, result: dict[str, Any]) -> bool:
        """Write a result; False if there is one already, which stays."""
        content = json.dumps(result, ensure_ascii=False, sort_keys=True, indent=1).encode() + b"\n"
        return self.folder.create(result_path(key), content)

    @contextmanager
    def claimed(self, key: str) -> Iterator[Claim | None]:
        """Claim a key for the block; None if it is done, or another worker is at it.

        The claim stays if the process is killed, and if the block raises it is given back.
        """
        path = claim_path(key)
        claim = self._take(key, path)
        if claim is None:
            yield None
            return
        if self._is_done(key):  # between the look and the claim
            self.folder.delete(path)
            yield None
            return
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(path, claim, ended), name="claim", daemon=True)
        beat.start()
        try:
            yield claim
        finally:
            ended.set()
            beat.join()
            if self._is_done(key):
                self.folder.delete(path)  # whoever's it is: no claim is needed any more
            else:
                self._give_back(path, claim)

    def _take(self, key: str, path: str) -> Claim | None:
        found, mine = self.folder.read(path), Claim(self.worker, uuid.uuid4().hex)
        if found is None:
            self._seen.pop(key, None)
            return mine if self.folder.create(path, mine.to_json()) else None
        before, now = _claim_in(found.content), time.monotonic()
        if before is not None and before.is_free:
            self._seen.pop(key, None)
            return mine if self.folder.replace(path, mine.to_json(), found.version) else None
        version, since = self._seen.get(key, ("", now))
        if version != found.version:
            self._seen[key] = (found.version, now)
            return None
        if now - since < self.lease_sec:
            return None
        del self._seen[key]
        mine = replace(mine, attempt=before.attempt + 1 if before else 1)
        if not self.folder.replace(path, mine.to_json(), found.version):
            return None
        who = one_line(before.worker) if before else "a worker"
        logger.warning("%s has not been heard of for %.0f s; its work %s is taken over", who, now - since, key)
        return mine

    def _beat(self, path: str, claim: Claim, ended: threading.Event) -> None:
        """Count up until the block ends, or the claim is somebody else's."""
        last_heard = time.monotonic()
        while not ended.wait(self.beat_sec):
            try:
                found = self.folder.read(path)
                if found is None or not _is_of(claim, found):
                    logger.warning("the claim %s was taken over; the first result of it stays", path)
                    return
                claim = replace(claim, beats=claim.beats + 1)
                self.folder.replace(path, claim.to_json(), found.version)
                last_heard = time.monotonic()
            except (OSError, TitanSpeechError) as error:  # the server may come back
                logger.warning("%s was not renewed for %.0f s: %s", path, time.monotonic() - last_heard, error)

    def _is_done(self, key: str) -> bool:
        return self.folder.read(result_path(key)) is not None

    def _give_back(self, path: str, claim: Claim) -> None:
        found = self.folder.read(path)
        if found is not None and _is_of(claim, found):
            self.folder.replace(path, replace(claim, is_free=True).to_json(), found.version)


def do_once(
    queue: WorkQueue, key: str, work: Callable[[], dict[str, Any]], about: Mapping[str, Any] = MappingProxyType({})
) -> bool:
    """Do a piece of work and publish its result, unless it is done or another worker is at it.

    Args:
        queue: shared by the workers.
        key: of the work.
        work: its result. What it raises is raised on, and the work is free for the next worker.
        about: what the result of work that is given up says besides the reason.

    Returns:
        Whether this worker published the result.
    """
    with queue.claimed(key) as claim:
        if claim is None:
            return False
        if claim.attempt > queue.max_attempts:
            reason = f"begun {queue.max_attempts} times, and each worker was gone before its end"
            result: dict[str, Any] = {"failed": reason, **about}
        else:
            result = work()
        return queue.publish(key, result)
