"""Files to object storage: in parallel, and in parts that outlive the process that sent them.

In: a file or a folder, and an address. Out: one object per file, with its checksums as metadata; or nothing but parts,
which the next process continues. Which parts were sent is read from the server (ListParts), so any machine that has the
file can continue, and no record on disk can be wrong: a part counts as sent when its size and MD5 there are those of
the file's own bytes. boto3's s3transfer is not used, because it begins a killed upload from its first byte. Parts of an
upload that nobody continues stay until the bucket's lifecycle rule (AbortIncompleteMultipartUpload) deletes them.

Files above 8 MB go in parts of 8 MB, at most 10,000 of them; memory is one part per connection. Every part is sent with
its MD5, which the server checks. A file is read twice: once for its sha256, its xxh3-128 and the MD5 of each part
(0.3 GB/s per core), once to send it. A part whose bytes changed between the two is refused, so what the server holds is
what was hashed.
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
from titan_speech.storage.retry import MissingObjectError, RateLimiter
from titan_speech.storage.s3 import SHA256_KEY, Client, StoredPart
from titan_speech.storage.s3_url import S3Url

PART_BYTES, MAX_PARTS = 8 << 20, 10_000
FILES_AT_ONCE = 4
XXH3_KEY = "xxh3-128"
UNLIMITED = RateLimiter(0)
_READ_BYTES = 1 << 20
Report = Callable[[int], None]


@dataclass(frozen=True)
class Uploaded:
    """What an upload did with one file."""

    path: str
    num_bytes: int
    existed: bool
    """The object had this content before."""


def upload_folder(
    client: Client,
    folder: Path,
    url: S3Url,
    *,
    paths: Sequence[str] | None = None,
    sha256s: Mapping[str, str] | None = None,
    report: Callable[[Uploaded], None] = lambda _: None,
) -> list[Uploaded]:
    """Sends files of a folder to the same paths below `url`, a few at a time; objects with the same content stay.

    Args:
        paths: what to send, by default every file. The last one is sent when all others are complete: without a store's
            manifest nothing opens, so a half-sent folder is never read.
        sha256s: expected sha256 of files, by path.
        report: called for each file that is complete.

    Raises:
        DataError: a file is missing (nothing was sent), is damaged, or cannot be sent; files not begun are not sent.
    """
    if paths is None:
        paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    missing = [path for path in paths if not (folder / path).is_file()]
    if missing or not paths:
        raise DataError(
            f"{folder / (missing or ['*'])[0]} is missing (and {max(len(missing) - 1, 0)} more); nothing was sent"
        )
    size_of_object, expected_sha256s = client.list_sizes(url), sha256s or {}

    def upload(path: str) -> Uploaded:
        local, place = folder / path, url.child(path)
        digest = digest_file(local, PART_BYTES)
        expected = expected_sha256s.get(path, digest.sha256)
        if digest.sha256 != expected:
            raise DataError(
                f"{local} is damaged: sha256 {digest.sha256[:16]}..., expected {expected[:16]}...; it was not sent. "
                "Copy it again from where it came from, or rebuild it"
            )
        existed = size_of_object.get(path) == digest.num_bytes and client.stored_sha256(place) == digest.sha256
        if not existed:
            upload_file(client, local, place, digest)
        done = Uploaded(path, digest.num_bytes, existed)
        report(done)
        return done

    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="upload") as pool:
        futures = [pool.submit(upload, path) for path in paths[:-1]]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
        failed = [error for future in futures if not future.cancelled() and (error := future.exception())]
        if failed:
            raise failed[0]
        return [*(future.result() for future in futures), upload(paths[-1])]


@dataclass(frozen=True)
class PartDigest:
    """Checksums of one part: the MD5, in hex, for the server, and the xxh3-64 to find bytes that changed meanwhile."""

    md5: str
    xxh3_64: int


@dataclass(frozen=True)
class FileDigest:
    """Checksums of a file as it was read, whole and for each part of `part_bytes`."""

    num_bytes: int
    sha256: str
    xxh3_128: str
    part_bytes: int
    parts: tuple[PartDigest, ...]

    def span(self, number: int) -> tuple[int, int]:
        """First byte and size of a part; parts are numbered from 1."""
        begin = (number - 1) * self.part_bytes
        return begin, min(self.part_bytes, self.num_bytes - begin)

    @property
    def metadata(self) -> Mapping[str, str]:
        """What is stored with the object."""
        return {SHA256_KEY: self.sha256, XXH3_KEY: self.xxh3_128}


def digest_file(path: Path, part_bytes: int) -> FileDigest:
    """Reads a file once; parts get larger than `part_bytes` where there would be more than 10,000."""
    num_bytes = path.stat().st_size
    part_bytes = max(part_bytes, -(-num_bytes // MAX_PARTS))
    sha256, xxh3_128, parts = hashlib.sha256(), xxhash.xxh3_128(), []
    with open(path, "rb", buffering=0) as file:
        for begin in range(0, max(num_bytes, 1), part_bytes):
            md5, xxh3_64 = hashlib.md5(usedforsecurity=False), xxhash.xxh3_64()
            left = min(part_bytes, num_bytes - begin)
            while left and (data := file.read(min(_READ_BYTES, left))):
                for digest in (sha256, xxh3_128, md5, xxh3_64):
                    digest.update(data)
                left -= len(data)
            parts.append(PartDigest(md5.hexdigest(), xxh3_64.intdigest()))
    return FileDigest(num_bytes, sha256.hexdigest(), xxh3_128.hexdigest(), part_bytes, tuple(parts))


def upload_file(
    client: Client,
    path: Path,
    url: S3Url,
    digest: FileDigest,
    limiter: RateLimiter = UNLIMITED,
    report: Report = lambda _: None,
) -> int:
    """Sends a file, continuing an unfinished upload of it; the object is complete afterwards.

    Args:
        digest: of the file, by `digest_file`.
        report: called with numbers of bytes as they are stored there, those of earlier attempts included.

    Returns:
        How many bytes were sent; 0 where the object had this content already.

    Raises:
        DataError: the file changed since it was read, or the server cannot be reached; sent parts stay on the server.
    """
    if _is_stored(client, url, digest):
        report(digest.num_bytes)
        return 0
    with open(path, "rb") as file:
        upload = _Upload(client, path, file.fileno(), url, digest, limiter, report)
        return upload.send_whole() if len(digest.parts) == 1 else upload.send_parts()


def _is_stored(client: Client, url: S3Url, digest: FileDigest) -> bool:
    """Whether the object was sent from the bytes of the digest."""
    found = client.find(url)
    return (
        found is not None and found.num_bytes == digest.num_bytes and digest.metadata.items() <= found.metadata.items()
    )


@dataclass(frozen=True)
class _Upload:
    """One file that is being sent."""

    client: Client
    path: Path
    file_number: int
    url: S3Url
    digest: FileDigest
    limiter: RateLimiter
    report: Report

    def send_whole(self) -> int:
        data = self._read_part(1)
        self.limiter.take(len(data))
        self.client.put(self.url, data, self.digest.sha256, metadata=self.digest.metadata, md5=self.digest.parts[0].md5)
        self.report(len(data))
        return len(data)

    def send_parts(self) -> int:
        unfinished = self.client.unfinished_uploads_of(self.url)
        upload_id, etags = self._continue_or_create(unfinished)
        num_bytes = self._send_missing(upload_id, etags)
        self.client.complete_multipart(self.url, upload_id, etags)
        if not _is_stored(self.client, self.url, self.digest):
            self.client.delete(self.url)  # begun for another file whose first parts were the same
            raise DataError(f"{self.url} did not become {self.path}; it is sent again")
        for other in set(unfinished) - {upload_id}:
            self.client.abort_multipart(self.url, other)
        return num_bytes

    def _continue_or_create(self, unfinished: list[str]) -> tuple[str, dict[int, str]]:
        """The newest unfinished upload that has parts of this file, or a new one; the ETags of its parts."""
        for upload_id in unfinished:
            try:
                stored = self.client.list_parts(self.url, upload_id)
            except MissingObjectError:
                continue  # aborted meanwhile
            if stored and all(self._is_part_of_file(number, part) for number, part in stored.items()):
                for part in stored.values():
                    self.report(part.num_bytes)
                return upload_id, {number: part.etag for number, part in stored.items()}
        return self.client.create_multipart(self.url, self.digest.sha256, self.digest.metadata), {}

    def _is_part_of_file(self, number: int, part: StoredPart) -> bool:
        if number > len(self.digest.parts):
            return False
        expected = StoredPart(self.digest.span(number)[1], self.digest.parts[number - 1].md5)
        return StoredPart(part.num_bytes, part.etag.strip('"')) == expected

    def _send_missing(self, upload_id: str, etags: dict[int, str]) -> int:
        """Sends the parts that have no ETag yet and adds theirs; the first failure stops the parts not begun."""
        missing = [number for number in range(1, len(self.digest.parts) + 1) if number not in etags]
        futures = {number: self.client.pool.submit(self._send_part, upload_id, number) for number in missing}
        try:
            for number, future in futures.items():
                etags[number] = future.result()
        finally:
            for future in futures.values():
                future.cancel()
            wait(futures.values())
        return sum(self.digest.span(number)[1] for number in missing)

    def _send_part(self, upload_id: str, number: int) -> str:
        data = self._read_part(number)
        self.limiter.take(len(data))
        etag = self.client.upload_part(self.url, upload_id, number, data, self.digest.parts[number - 1].md5)
        self.report(len(data))
        return etag

    def _read_part(self, number: int) -> bytes:
        begin, num_bytes = self.digest.span(number)
        data = os.pread(self.file_number, num_bytes, begin)
        if len(data) != num_bytes or xxhash.xxh3_64_intdigest(data) != self.digest.parts[number - 1].xxh3_64:
            raise DataError(f"{self.path} changed while it was uploaded (from byte {begin}); it was not sent")
        return data
