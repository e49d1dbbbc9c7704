"""Objects into local files: parallel ranges, hashed as they arrive, resumable after a kill.

In: a `RemoteFile` and a `PartialFile`, new or left by a killed process. Out: the complete file with the expected
content, or a `DataError`; nothing else is ever taken for the file. Ranges of all files of a process share its
connections, so memory is one chunk of 1 MB per connection and a byte per range, whatever size a manifest claims.

A file whose checksum is wrong is fetched once more, as bytes may have changed on the way; the second failure means that
the object itself is damaged. s3transfer is not used: it keeps no record of finished ranges that outlives its process,
and cannot hash a range while later ones are on their way.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.storage.s3 import Client, DamagedObjectError
from titan_speech.storage.s3_url import S3Url
from titan_speech.utils.checksum import is_intact, quick_digest, quick_sum
from titan_speech.utils.safe_path import byte_count, open_without_link, path_inside, sha256_text

RANGE_BYTES = 8 << 20
FILES_AT_ONCE = 8
MAX_OBJECT_BYTES = 64 << 40
"""Amazon's objects have at most 50 TB; what a manifest claims above it is no size of an object."""
_RANGES_AHEAD = 256
"""Submitted and not yet hashed: 2 GB, more than any sensible number of connections has on the way."""
_HASH_BYTES = 1 << 20
_DONE = b"\1"


@dataclass(frozen=True)
class RemoteFile:
    """An object and its expected content."""

    url: S3Url
    num_bytes: int
    sha256: str
    xxh3_128: str = ""
    """Empty where it is not known; the file is then verified by its sha256 (checksum.py)."""

    def __post_init__(self) -> None:
        """The cache names files by their sha256, so nothing else may be in that field."""
        if byte_count(self.num_bytes) > MAX_OBJECT_BYTES:
            raise DataError(
                f"{self.url}: the manifest claims {self.num_bytes:,} bytes, expected at most {MAX_OBJECT_BYTES:,}; "
                "find out who made it before you use it"
            )
        sha256_text(self.sha256)


class PartialFile:
    """A file while it is fetched: `num_bytes` of data, then one byte per range that says whether it is complete.

    Data and record are one file with one lock, which a later process continues. Ranges of 8 MB are written at their
    place, each before it is recorded. A power cut may still keep a record and lose the bytes: the checksum of the whole
    file decides, and a file that fails it is fetched again.
    """

    def __init__(self, file_number: int, file: RemoteFile) -> None:
        self.file_number, self.file, self.num_bytes = file_number, file, file.num_bytes
        self.num_ranges = -(-self.num_bytes // RANGE_BYTES)
        self._digest = quick_digest(file)
        self._buffer = bytearray(min(_HASH_BYTES, max(self.num_bytes, 1)))

    @property
    def allocated_bytes(self) -> int:
        """Size on disk, record included."""
        return self.num_bytes + self.num_ranges

    def span(self, i: int) -> tuple[int, int]:
        """First and end byte of range i."""
        return i * RANGE_BYTES, min((i + 1) * RANGE_BYTES, self.num_bytes)

    def missing_ranges(self) -> Iterator[int]:
        """Ranges that are not recorded as complete."""
        record = os.pread(self.file_number, self.num_ranges, self.num_bytes).ljust(self.num_ranges, b"\0")
        return (i for i, done in enumerate(record) if done != _DONE[0])

    def record_range(self, i: int) -> None:
        os.pwrite(self.file_number, _DONE, self.num_bytes + i)

    def forget_ranges(self) -> None:
        """Every range is missing afterwards."""
        os.pwrite(self.file_number, bytes(self.num_ranges), self.num_bytes)
        self._digest = quick_digest(self.file)

    def hash_range(self, i: int) -> None:
        """Hashes a complete range; ranges are hashed in their order."""
        place, stop = self.span(i)
        while place < stop:
            view = memoryview(self._buffer)[: stop - place]
            num_read = os.preadv(self.file_number, [view], place)
            if num_read == 0:
                break
            self._digest.update(view[:num_read])
            place += num_read

    def is_intact(self) -> bool:
        """Whether the content is the expected one, once all ranges were hashed."""
        if self._digest.hexdigest() == quick_sum(self.file):
            return True
        os.ftruncate(self.file_number, self.num_bytes)  # the file is fetched again, so its record goes too
        with open(self.file_number, "rb", closefd=False) as opened:
            return bool(self.file.xxh3_128) and is_intact(opened, self.file)

    def seal(self) -> None:
        """Drops the record and flushes the data to disk."""
        os.ftruncate(self.file_number, self.num_bytes)
        os.fsync(self.file_number)


def finish_download(client: Client, partial: PartialFile) -> None:
    """Fetches the missing ranges of a partial file, verifies the whole and seals it.

    Raises:
        DamagedObjectError: the content is wrong although it was fetched twice.
        DataError: the server cannot be reached, or refuses.
    """
    for _ in range(2):
        _fetch_missing_ranges(client, partial)
        if partial.is_intact():
            partial.seal()
            return
        partial.forget_ranges()
    raise DamagedObjectError(
        f"{partial.file.url} is damaged: fetched twice, its sha256 is not {partial.file.sha256[:16]}...; push the "
        "store again from where it is whole, or rebuild it"
    )


def _fetch_missing_ranges(client: Client, partial: PartialFile) -> None:
    """Hashes each range while later ones are on their way."""

    def fetch_range(i: int) -> None:
        client.read_range_into(partial.file.url, *partial.span(i), partial.file_number)
        partial.record_range(i)

    waiting: deque[tuple[int, Future[None]]] = deque()
    missing = partial.missing_ranges()

    def submit(num_ranges: int) -> None:
        waiting.extend((i, client.pool.submit(fetch_range, i)) for i in islice(missing, num_ranges))

    try:
        submit(_RANGES_AHEAD)
        for i in range(partial.num_ranges):
            if waiting and waiting[0][0] == i:
                waiting.popleft()[1].result()
                submit(1)
            partial.hash_range(i)
    finally:
        for _, future in waiting:
            future.cancel()
        wait(future for _, future in waiting)  # none may write once the file is closed


def download_files(
    client: Client, files: Mapping[str, RemoteFile], folder: Path, report: Callable[[str, int], None]
) -> None:
    """Fetches objects into a folder; a file that is there with the right content is not fetched again.

    Args:
        files: objects by the path they get below `folder`.
        report: called with path and size of each file that is complete.

    Raises:
        UnsafePathError: one of the paths leads out of `folder`; nothing was fetched.
        DataError: the first file that failed; files not begun by then are not fetched.
    """
    places = {path: path_inside(folder, path) for path in files}

    def download(path: str) -> None:
        download_file(client, files[path], places[path])
        report(path, files[path].num_bytes)

    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="download") as pool:
        futures = [pool.submit(download, path) for path in files]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()


def download_file(client: Client, file: RemoteFile, path: Path) -> None:
    """Fetches one object to `path`; until it is complete its content is in `<name>.partial` next to it.

    Raises:
        DataError: the object cannot be fetched or the file cannot be written; what came is kept.
    """
    if _is_complete(path, file):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    file_number = open_without_link(unfinished)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finish_download(client, PartialFile(file_number, file))
        os.rename(unfinished, path)
    except BlockingIOError as error:
        raise DataError(f"{unfinished} is being written by another process; wait for it, or stop it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; free some space or choose another folder") from error
    finally:
        os.close(file_number)


def _is_complete(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    with open(path, "rb") as opened:
        return is_intact(opened, file)
