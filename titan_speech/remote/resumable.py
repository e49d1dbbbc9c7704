"""One big file to one object, in parts that outlive the process that sent them.

In: a file and an address. Out: the object, whole, with its checksums as notes; or nothing but parts, with which the
next process goes on. What was sent is asked of the server (ListParts), so any machine that has the file can go on, and
no record on disk can be wrong. A part counts as sent when it has the size and the MD5 of the file's own bytes there.

The file is read twice: once for its sha256, its xxh3-128 and the MD5 of each part (0.3 GB/s a core), once to send it. A
part whose bytes changed between the two is refused, so what the server holds is what was hashed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path

import xxhash

from titan_speech.errors import DataError
from titan_speech.remote.client import SHA256_KEY, Client, StoredPart
from titan_speech.remote.pace import Pace
from titan_speech.remote.retry import MissingObjectError
from titan_speech.remote.upload import MAX_PARTS
from titan_speech.remote.url import S3Url

XXH3_KEY = "xxh3-128"
_READ_BYTES = 1 << 20
Report = Callable[[int], None]


@dataclass(frozen=True)
class Digest:
    """What a file held when it was read; `md5s` has one entry for each part of `part_bytes`."""

    num_bytes: int
    sha256: str
    xxh3_128: str
    part_bytes: int
    md5s: tuple[str, ...]

    def span(self, number: int) -> tuple[int, int]:
        """First byte and size of a part; parts are numbered from 1."""
        begin = (number - 1) * self.part_bytes
        return begin, min(self.part_bytes, self.num_bytes - begin)

    @property
    def notes(self) -> Mapping[str, str]:
        """What goes along with the object."""
        return {SHA256_KEY: self.sha256, XXH3_KEY: self.xxh3_128}


def digest_file(path: Path, part_bytes: int) -> Digest:
    """Reads the file once."""
    num_bytes = path.stat().st_size
    part_bytes = max(part_bytes, -(-num_bytes // MAX_PARTS))
    sha256, xxh3_128, md5s = hashlib.sha256(), xxhash.xxh3_128(), []
    with open(path, "rb", buffering=0) as file:
        for begin in range(0, max(num_bytes, 1), part_bytes):
            md5, left = hashlib.md5(usedforsecurity=False), min(part_bytes, num_bytes - begin)
            while left and (data := file.read(min(_READ_BYTES, left))):
                for digest in (sha256, xxh3_128, md5):
                    digest.update(data)
                left -= len(data)
            md5s.append(md5.hexdigest())
    return Digest(num_bytes, sha256.hexdigest(), xxh3_128.hexdigest(), part_bytes, tuple(md5s))


def is_there(client: Client, url: S3Url, digest: Digest) -> bool:
    """Whether the object was sent from these bytes."""
    found = client.find(url)
    return found is not None and found.num_bytes == digest.num_bytes and digest.notes.items() <= found.notes.items()


def send_resumable(
    client: Client, path: Path, url: S3Url, digest: Digest, pace: Pace, report: Report = lambda _: None
) -> int:
    """The object is there afterwards; how many bytes were sent. `report` hears of bytes as they are there.

    Raises:
        DataError: the file changed since it was read, or the server cannot be reached; parts stay there.
    """
    if is_there(client, url, digest):
        report(digest.num_bytes)
        return 0
    with open(path, "rb") as file:
        sender = _Sender(client, path, file.fileno(), url, digest, pace, report)
        return sender.send_whole() if len(digest.md5s) == 1 else sender.send_parts()


@dataclass(frozen=True)
class _Sender:
    """One object on its way."""

    client: Client
    path: Path
    file_number: int
    url: S3Url
    digest: Digest
    pace: Pace
    report: Report

    def send_whole(self) -> int:
        data = self._part(1)
        self.pace.take(len(data))
        self.client.put(self.url, data, self.digest.sha256, self.digest.notes)
        self.report(len(data))
        return len(data)

    def send_parts(self) -> int:
        unfinished = self.client.unfinished_uploads(self.url)
        upload_id, etags = self._gone_on_with(unfinished)
        num_bytes = self._put_missing(upload_id, etags)
        self.client.finish_parts(self.url, upload_id, etags)
        if not is_there(self.client, self.url, self.digest):
            self.client.delete(self.url)  # begun for another file whose first parts were the same
            raise DataError(f"{self.url} did not become {self.path}; it is sent anew")
        for other in set(unfinished) - {upload_id}:
            self.client.abandon_parts(self.url, other)
        return num_bytes

    def _gone_on_with(self, unfinished: list[str]) -> tuple[str, dict[int, str]]:
        """The newest unfinished upload that has parts of this file, or a new one; the ETags of its parts."""
        for upload_id in unfinished:
            try:
                there = self.client.parts_there(self.url, upload_id)
            except MissingObjectError:
                continue  # abandoned meanwhile
            if there and all(self._fits(number, part) for number, part in there.items()):
                for part in there.values():
                    self.report(part.num_bytes)
                return upload_id, {number: part.etag for number, part in there.items()}
        return self.client.start_parts(self.url, self.digest.sha256, self.digest.notes), {}

    def _fits(self, number: int, part: StoredPart) -> bool:
        if number > len(self.digest.md5s):
            return False
        expected = StoredPart(self.digest.span(number)[1], self.digest.md5s[number - 1])
        return StoredPart(part.num_bytes, part.etag.strip('"')) == expected

    def _put_missing(self, upload_id: str, etags: dict[int, str]) -> int:
        """Adds the ETags of the parts it sends; the first failure stops what has not begun."""
        missing = [number for number in range(1, len(self.digest.md5s) + 1) if number not in etags]
        futures = {number: self.client.pool.submit(self._put, upload_id, number) for number in missing}
        try:
            for number, future in futures.items():
                etags[number] = future.result()
        finally:
            for future in futures.values():
                future.cancel()
            wait(futures.values())
        return sum(self.digest.span(number)[1] for number in missing)

    def _put(self, upload_id: str, number: int) -> str:
        data = self._part(number)
        self.pace.take(len(data))
        etag = self.client.put_part(self.url, upload_id, number, data)
        self.report(len(data))
        return etag

    def _part(self, number: int) -> bytes:
        begin, num_bytes = self.digest.span(number)
        data = os.pread(self.file_number, num_bytes, begin)
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != self.digest.md5s[number - 1]:
            raise DataError(f"{self.path} changed while it was uploaded (from byte {begin}); it was not sent")
        return data
