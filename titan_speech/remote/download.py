"""One object into one local file: parallel ranges, hashed as they arrive, resumable.

In: a `RemoteFile` and a `PartialFile`, new or left by a killed process. Out: the file complete and with the content
that is expected, or a `DataError`; nothing else is ever taken for the file. Ranges of all files of a process share its
connections, so memory is one chunk of 1 MB a connection, whatever the size of the object.

A whole that fails its checksum is fetched once more, as bytes may have changed on the way; the second failure says that
the object itself is damaged.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from dataclasses import dataclass

from titan_speech.errors import DataError
from titan_speech.remote.client import Client
from titan_speech.remote.partial import PartialFile
from titan_speech.remote.url import S3Url
from titan_speech.utils.safe_path import byte_count, sha256_text


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
