"""A folder to a prefix: in parallel, resumable, one file last.

In: a folder and an address. Out: an object for every file, with its sha256 as metadata. Objects that are there with the
right size and sha256 are left alone, so a push that was killed goes on where it stopped. The last of the paths (a
store's manifest) is written when all others are there: without it nothing opens, so a half-sent folder is never read.

Objects above 16 MB go in parts of 8 MB, up to 10,000 of them; memory is one part a connection. Every part is sent with
its MD5, which the server checks. A file is hashed while nothing of it is on its way: 0.3 to 1.5 GB/s a core.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.remote.client import Client
from titan_speech.remote.url import S3Url

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
