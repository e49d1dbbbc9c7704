"""A file while it is being fetched: its ranges, and which of them have come.

In: the size of a file. Out: an open file that a later process can go on with. Ranges of 8 MB are written at their
place, and one byte per range behind the data says that it is there, so data and record are one file with one lock.
Bytes are written before they are recorded. A power cut may still keep a record and lose the bytes: the checksum of the
whole decides, and a file that fails it is fetched anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from titan_speech.checksum import Recorded, is_intact, quick_digest, quick_sum

RANGE_BYTES = 8 << 20
_HASH_BYTES = 1 << 20
_DONE = b"\1"


class PartialFile:
    """`num_bytes` of data in an open file, followed by the record of its ranges."""

    def __init__(self, file_number: int, num_bytes: int, recorded: Recorded) -> None:
        self.file_number, self.num_bytes, self._recorded = file_number, num_bytes, recorded
        self.num_ranges = -(-num_bytes // RANGE_BYTES)
        self._digest = quick_digest(recorded)
        self._buffer = bytearray(min(_HASH_BYTES, max(num_bytes, 1)))

    @property
    def allocated_bytes(self) -> int:
        return self.num_bytes + self.num_ranges

    def span(self, i: int) -> tuple[int, int]:
        """First and end byte of range i."""
        return i * RANGE_BYTES, min((i + 1) * RANGE_BYTES, self.num_bytes)

    def missing(self) -> Iterator[int]:
        """Ranges not recorded as done."""
        record = os.pread(self.file_number, self.num_ranges, self.num_bytes).ljust(self.num_ranges, b"\0")
        return (i for i, done in enumerate(record) if done != _DONE[0])

    def record(self, i: int) -> None:
        os.pwrite(self.file_number, _DONE, self.num_bytes + i)

    def forget(self) -> None:
        """No range is there any more."""
        os.pwrite(self.file_number, bytes(self.num_ranges), self.num_bytes)
        self._digest = quick_digest(self._recorded)

    def hash_range(self, i: int) -> None:
        """Ranges are hashed in their order, each once it is there."""
        place, stop = self.span(i)
        while place < stop:
            view = memoryview(self._buffer)[: stop - place]
            num_read = os.preadv(self.file_number, [view], place)
            if num_read == 0:
                break
            self._digest.update(view[:num_read])
            place += num_read

    def is_intact(self) -> bool:
        """Once all ranges were hashed: whether the whole is what was recorded of it."""
        if self._digest.hexdigest() == quick_sum(self._recorded):
            return True
        os.ftruncate(self.file_number, self.num_bytes)  # a whole that is refused is fetched anew, its record with it
        with open(self.file_number, "rb", closefd=False) as opened:
            return bool(self._recorded.xxh3_128) and is_intact(opened, self._recorded)

    def seal(self) -> None:
        """Drops the record and flushes the data."""
        os.ftruncate(self.file_number, self.num_bytes)
        os.fsync(self.file_number)
