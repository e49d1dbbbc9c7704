"""A file while it is being fetched: its ranges, and which of them have come.

In: the size of a file. Out: an open file that a later process can go on with. Ranges of 8 MB are written at their
place, and one byte per range behind the data says that it is there, so data and record are one file with one lock.
Bytes are written before they are recorded. A power cut may still keep a record and lose the bytes: the checksum of the
whole decides, and a file that fails it is fetched anew.

One object into one local file: parallel ranges, hashed as they arrive, resumable.

In: a `RemoteFile` and a `PartialFile`, new or left by a killed process. Out: the file complete and with the content
that is expected, or a `DataError`; nothing else is ever taken for the file. Ranges of all files of a process share its
connections, so memory is one chunk of 1 MB a connection, whatever the size of the object.

A whole that fails its checksum is fetched once more, as bytes may have changed on the way; the second failure says that
the object itself is damaged.

Objects into a folder of one's own: resumable, each file whole or under another name.

In: objects by the path they get. Out: the files, verified. A file that is there with the right content is left
alone; one that was cut short lies beside its place as `<name>.partial` and is gone on with.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.storage.s3 import Client, S3Url
from titan_speech.utils.checksum import Recorded, is_intact, quick_digest, quick_sum
from titan_speech.utils.safe_path import byte_count, path_inside, sha256_text

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


@dataclass(frozen=True)
class RemoteFile:
    """An object and what it must hold."""

    url: S3Url
    num_bytes: int
    sha256: str
    xxh3_128: str = ""
    """Empty where it is not known; the file is then judged by its sha256 (checksum.py)."""

    def __post_init__(self) -> None:
        """The cache names files by their sha256, so nothing else may stand there."""
        byte_count(self.num_bytes)
        sha256_text(self.sha256)


def fill(client: Client, file: RemoteFile, partial: PartialFile) -> None:
    """Fetches what the partial file lacks and checks the whole."""
    for _ in range(2):
        _fetch_missing(client, file, partial)
        if partial.is_intact():
            return
        partial.forget()
    raise DamagedObjectError(
        f"{file.url} is damaged: fetched twice, its sha256 is not {file.sha256[:16]}...; push the store again from "
        "where it is whole, or rebuild it"
    )


class DamagedObjectError(DataError):
    """The object is not what the manifest says."""


def _fetch_missing(client: Client, file: RemoteFile, partial: PartialFile) -> None:
    """Hashes each range while later ones are on their way."""
    futures = {i: client.pool.submit(_fetch_range, client, file, partial, i) for i in partial.missing()}
    try:
        for i in range(partial.num_ranges):
            if i in futures:
                futures.pop(i).result()
            partial.hash_range(i)
    finally:
        _stop(list(futures.values()))


def _fetch_range(client: Client, file: RemoteFile, partial: PartialFile, i: int) -> None:
    client.read_range_into(file.url, *partial.span(i), partial.file_number)
    partial.record(i)


def _stop(futures: list[Future[None]]) -> None:
    """None of them may write once the file is closed."""
    for future in futures:
        future.cancel()
    wait(futures)


FILES_AT_ONCE = 8


def download_files(
    client: Client, files: Mapping[str, RemoteFile], folder: Path, report: Callable[[str, int], None] = lambda *_: None
) -> None:
    """`report` hears of each file that is there, with its size; the first failure stops what has not begun.

    Raises:
        UnsafePathError: one of the paths leads out of `folder`; nothing was fetched.
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
    if _is_whole(path, file):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    file_number = os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial = PartialFile(file_number, file.num_bytes, file)
        fill(client, file, partial)
        partial.seal()
        os.rename(unfinished, path)
    except BlockingIOError as error:
        raise DataError(f"{unfinished} is being written by another process; wait for it, or stop it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; make room or choose another folder") from error
    finally:
        os.close(file_number)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    with open(path, "rb") as opened:
        return is_intact(opened, file)
