"""A folder to a prefix: in parallel, resumable, one file last.

In: a folder and an address. Out: an object for every file, with its sha256 as metadata. Objects that are there with the
right size and sha256 are left alone, so a push that was killed goes on where it stopped. The last of the paths (a
store's manifest) is written when all others are there: without it nothing opens, so a half-sent folder is never read.

Objects above 16 MB go in parts of 8 MB, up to 10,000 of them; memory is one part a connection. Every part is sent with
its MD5, which the server checks. A file is hashed while nothing of it is on its way: 0.3 to 1.5 GB/s a core.

One big file to one object, in parts that outlive the process that sent them.

In: a file and an address. Out: the object, whole, with its checksums as notes; or nothing but parts, with which the
next process goes on. What was sent is asked of the server (ListParts), so any machine that has the file can go on, and
no record on disk can be wrong. A part counts as sent when it has the size and the MD5 of the file's own bytes there.

The file is read twice: once for its sha256, its xxh3-128 and the MD5 of each part (0.3 GB/s a core), once to send it. A
part whose bytes changed between the two is refused, so what the server holds is what was hashed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import xxhash

from titan_speech.errors import DataError
from titan_speech.storage.retry import MissingObjectError, Pace
from titan_speech.storage.s3 import SHA256_KEY, Client, S3Url, StoredPart

PART_BYTES, MAX_PARTS = 8 << 20, 10_000
WHOLE_BYTES = 2 * PART_BYTES
FILES_AT_ONCE = 4


@dataclass(frozen=True)
class Uploaded:
    """What an upload did with one file."""

    path: str
    num_bytes: int
    was_there: bool


def upload_folder(
    client: Client,
    folder: Path,
    url: S3Url,
    *,
    paths: Sequence[str] | None = None,
    sha256s: Mapping[str, str] | None = None,
    report: Callable[[Uploaded], None] = lambda _: None,
) -> list[Uploaded]:
    """Files of the folder to the same paths below `url`, the last of `paths` when all others are there.

    Without `paths` all files go, in the order of their names. `sha256s` are what files must have.
    """
    if paths is None:
        paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing or not paths:
        raise DataError(
            f"{folder / (missing or ['*'])[0]} is missing (and {max(len(missing) - 1, 0)} more); nothing was sent"
        )
    uploader = _Uploader(client, folder, url, client.list_sizes(url), sha256s or {}, report)
    return [*_all_of(uploader, paths[:-1]), uploader.upload(paths[-1])]


@dataclass(frozen=True)
class _Uploader:
    """One upload, and what it found at the other end."""

    client: Client
    folder: Path
    url: S3Url
    there: Mapping[str, int]
    sha256s: Mapping[str, str]
    report: Callable[[Uploaded], None]

    def upload(self, path: str) -> Uploaded:
        local, url = self.folder / path, self.url.child(path)
        num_bytes, sha256 = local.stat().st_size, _sha256(local)
        expected = self.sha256s.get(path, sha256)
        if sha256 != expected:
            raise DataError(
                f"{local} is damaged: sha256 {sha256[:16]}..., expected {expected[:16]}...; it was not sent. Copy it "
                "again from where it came from, or rebuild it"
            )
        was_there = self.there.get(path) == num_bytes and self.client.stored_sha256(url) == sha256
        if not was_there:
            upload_file(self.client, local, url, sha256)
        done = Uploaded(path, num_bytes, was_there)
        self.report(done)
        return done


def _all_of(uploader: _Uploader, paths: Sequence[str]) -> list[Uploaded]:
    """A few files at a time; the first failure stops what has not begun."""
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="upload") as pool:
        futures = [pool.submit(uploader.upload, path) for path in paths]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
        failed = [error for future in futures if not future.cancelled() and (error := future.exception())]
        if failed:
            raise failed[0]
        return [future.result() for future in futures]


def upload_file(client: Client, local: Path, url: S3Url, sha256: str) -> None:
    """One object, whole or not at all."""
    with open(local, "rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes <= WHOLE_BYTES:
            client.put(url, file.read(), sha256)
            return
        part_bytes = max(PART_BYTES, -(-num_bytes // MAX_PARTS))
        upload_id = client.start_parts(url, sha256)
        try:
            etags = _put_parts(client, url, upload_id, file.fileno(), range(0, num_bytes, part_bytes))
            client.finish_parts(url, upload_id, etags)
        except BaseException:
            client.abandon_parts(url, upload_id)
            raise


def _put_parts(client: Client, url: S3Url, upload_id: str, file_number: int, places: range) -> dict[int, str]:
    """ETag of each part, numbered from 1."""

    def put(number: int) -> str:
        data = os.pread(file_number, places.step, places[number - 1])
        return client.put_part(url, upload_id, number, data)

    futures = {number: client.pool.submit(put, number) for number in range(1, len(places) + 1)}
    try:
        return {number: future.result() for number, future in futures.items()}
    finally:
        for future in futures.values():
            future.cancel()
        wait(futures.values())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
