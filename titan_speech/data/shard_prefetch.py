"""Fetches the shards that a rank will read before it reads them, if stores are in object storage.

In: the plan and the slots of one rank, in its order. Out: nothing but files that are in the node's cache when packs ask
for them. Which files a slot reads follows from the plan alone: slot -> stream and pack -> pieces -> documents ->
samples -> shard. The look-ahead is bounded in packs and in bytes (a quarter of the cache, divided by the node's
processes), so that what is fetched is not evicted before its turn. A file that cannot be fetched is no error here: the
pack that needs it says so.

Finding the files of a pack costs a third of reading it (50 us), in the same process. So once per 1,024 packs the thread
checks whether any file of the plan is missing on the node at all (2 us per file); while none is, it skips the packs.

Stores in folders need no prefetching: no thread is started for them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from titan_speech.data.pack_layout import PADDING_SLOT
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.store.files import LookAhead, StoreFiles
from titan_speech.store.manifest import FileInfo

logger = logging.getLogger(__name__)

FILES_AT_ONCE = 4
PACKS_PER_CHECK = 1024
WAKE_SHARE = 1 / 8
"""Part of the look-ahead that must be free before the thread continues: waking it for every batch slows reading."""
Needed = tuple[StoreFiles, FileInfo]


def files_of_slot(plan: DataPlan, slot: int) -> list[Needed]:
    """Every shard file that the slot's pack reads, each once, in the order of reading."""
    index, j = plan.locate(slot)
    stream = plan.streams[index]
    needed: dict[str, Needed] = {}
    seen: set[tuple[int, int]] = set()
    for piece in stream.stream.pieces(j):
        documents = stream.documents[piece.part]
        part = documents.part
        for sample in documents.samples(piece.document):
            shard, _ = part.locate(sample)
            if (piece.part, shard) not in seen:
                seen.add((piece.part, shard))
                for file in part.shard_files(shard, documents.variants):
                    needed.setdefault(file.sha256, (part.files, file))
    return list(needed.values())


def files_of_plan(plan: DataPlan) -> list[Needed]:
    """Every shard file that any pack may read, each once."""
    read = {(id(d.part), d.variants): d for stream in plan.streams for d in stream.documents}.values()
    needed: dict[str, Needed] = {}
    for documents in read:
        part = documents.part
        for shard in range(len(part.info.shards)):
            needed |= {file.sha256: (part.files, file) for file in part.shard_files(shard, documents.variants)}
    return list(needed.values())


def look_ahead_of(plan: DataPlan) -> LookAhead | None:
    """How far ahead to fetch; None if all stores are local."""
    found = (documents.part.files.look_ahead for stream in plan.streams for documents in stream.documents)
    return next(filter(None, found), None)


class ShardPrefetcher:
    """A thread that walks ahead of one rank's reading until `close`."""

    def __init__(self, plan: DataPlan, slots: Iterable[list[int]], ahead: LookAhead) -> None:
        self._plan, self._slots, self._ahead = plan, slots, ahead
        self._files = files_of_plan(plan)
        self._moved = threading.Condition()
        self.num_walked = self._num_read = 0
        self._unread: deque[tuple[int, int]] = deque()  # the pack that needs some files first, and their bytes
        self._is_closed = False
        self._thread = threading.Thread(target=self._walk, name="shard-prefetch", daemon=True)
        self._thread.start()

    def has_read(self, num_packs: int) -> None:
        """Report that the rank has read `num_packs` more packs, padding included."""
        with self._moved:
            self._num_read += num_packs
            is_worth_it = self.num_walked - self._num_read <= self._ahead.num_packs * (1 - WAKE_SHARE)
            while self._unread and self._unread[0][0] <= self._num_read:
                self._unread.popleft()
                is_worth_it = True
            if is_worth_it:
                self._moved.notify()

    def close(self) -> None:
        with self._moved:
            self._is_closed = True
            self._moved.notify()
        self._thread.join()

    def _walk(self) -> None:
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="shard-prefetch") as pool:
            try:
                for files, file in self._needed():
                    pool.submit(self._fetch, files, file)
            except Exception as error:  # the reader meets the same error where it matters
                logger.warning("shards are no longer fetched ahead: %s", error)
            pool.shutdown(cancel_futures=self._is_closed)

    def _needed(self) -> Iterator[Needed]:
        """Files in the order of need, each when it comes into the look-ahead."""
        previous: dict[str, Needed] = {}
        is_whole, next_check = False, 0
        for microbatch in self._slots:
            if not self._wait_for_look_ahead():
                return
            if self.num_walked >= next_check:
                is_whole = all(files.has(file) for files, file in self._files)
                next_check = self.num_walked + PACKS_PER_CHECK
            slots = [] if is_whole else [slot for slot in microbatch if slot != PADDING_SLOT]
            current = {one[1].sha256: one for slot in slots for one in files_of_slot(self._plan, slot)}
            new = [needed for sha256, needed in current.items() if sha256 not in previous]
            self._note(len(microbatch), sum(file.num_bytes for files, file in new if not files.has(file)))
            yield from new
            previous = current

    def _wait_for_look_ahead(self) -> bool:
        """Wait until the next packs are within the look-ahead; False once closed."""
        with self._moved:
            self._moved.wait_for(lambda: self._is_closed or self._is_near())
            return not self._is_closed

    def _is_near(self) -> bool:
        num_bytes = sum(num_bytes for _, num_bytes in self._unread)
        return self.num_walked - self._num_read < self._ahead.num_packs and num_bytes < self._ahead.num_bytes

    def _note(self, num_packs: int, num_bytes: int) -> None:
        with self._moved:
            first = self.num_walked + 1
            self.num_walked += num_packs
            if num_bytes:
                self._unread.append((first, num_bytes))

    def _fetch(self, files: StoreFiles, file: FileInfo) -> None:
        if self._is_closed:
            return
        try:
            files.fetch([file])
        except DataError as error:
            logger.warning("not fetched ahead: %s", error)
