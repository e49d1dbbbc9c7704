"""Requests to S3, R2 and servers with their protocol.

In: a `StorageConfig` and addresses. Out: sizes, bytes, ranges written into files. What is sent carries a Content-MD5,
which every server checks.

One client per process: a forked process makes its own, as two processes must not share sockets.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError, TitanSpeechError
from titan_speech.storage.connect import connect, with_endpoint
from titan_speech.storage.retry import MissingObjectError, Result, TransferError, retry_request
from titan_speech.storage.s3_url import S3Url
from titan_speech.utils.json_text import MAX_JSON_BYTES

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
LEAST_BYTES_PER_SEC = 32 << 10
SHA256_KEY = "sha256"
EMPTY: Mapping[str, str] = MappingProxyType({})


class DamagedObjectError(DataError):
    """The object does not have the content that was expected."""


@dataclass(frozen=True)
class StoredObject:
    """An object as it was sent; its sha256 is part of the metadata."""

    num_bytes: int
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class ListedObject:
    """An object in a listing."""

    num_bytes: int
    written_unix_sec: float
    """By the server's clock."""


@dataclass(frozen=True)
class UnfinishedUpload:
    """A multipart upload that was neither completed nor aborted; its parts are paid for and not listed."""

    path: str
    """Relative to the prefix that was listed; empty for an upload of exactly that object."""
    upload_id: str
    begun_unix_sec: float


@dataclass(frozen=True)
class StoredPart:
    """A part of an unfinished upload; its ETag is the MD5 of its bytes, unless the server encrypts with its own key."""

    num_bytes: int
    etag: str


class Client:
    """Requests with retries; `pool` runs as many at once as there are connections."""

    def __init__(self, settings: StorageConfig) -> None:
        self.settings = settings
        self._s3 = connect(settings, settings.timeout_sec)
        self.pool = ThreadPoolExecutor(settings.num_connections, thread_name_prefix="object-storage")

    def list_sizes(self, url: S3Url) -> dict[str, int]:
        """Size of every object below the prefix, by its path from there."""
        return {path: found.num_bytes for path, found in self.list_objects(url).items()}

    def list_objects(self, url: S3Url) -> dict[str, ListedObject]:
        """Every object below the prefix, by its path from there; one request per 1,000 objects."""
        prefix = f"{url.key}/" if url.key else ""
        listed = self._list(f"listing {url}", "list_objects_v2", "Contents", Bucket=url.bucket, Prefix=prefix)
        return {
            found["Key"].removeprefix(prefix): ListedObject(found["Size"], found["LastModified"].timestamp())
            for found in listed
        }

    def read(self, url: S3Url, parse: Callable[[bytes], Result] = bytes) -> Result:
        """The whole object; for small ones, up to `MAX_JSON_BYTES`.

        One that is found damaged is read once more: a byte may change on the way.

        Args:
            parse: makes the result of the content; a `TitanSpeechError` of it says that the content is damaged.

        Raises:
            DamagedObjectError: read twice, the content is not what was sent.
            TitanSpeechError: what `parse` raises for the content that was read the second time.
        """
        return self._read(url, parse)[0]

    def read_version(self, url: S3Url) -> tuple[bytes, str]:
        """The whole of a small object, and its ETag, for a `put` that replaces just this version."""
        return self._read(url, bytes)

    def _read(self, url: S3Url, parse: Callable[[bytes], Result]) -> tuple[Result, str]:
        content, sha256, etag = self._content(url)
        try:
            return parse(_verified(url, content, sha256)), etag
        except TitanSpeechError as error:
            logger.warning("%s; it is read again, since bytes may have changed on the way", error)
        content, sha256, etag = self._content(url)
        return parse(_verified(url, content, sha256)), etag

    def _content(self, url: S3Url) -> tuple[bytes, str, str]:
        """Content, the sha256 it was sent with, empty if it was sent without, and the ETag."""

        def request() -> tuple[bytes, str, str]:
            answer = self._s3.get_object(Bucket=url.bucket, Key=url.key)
            content = bytearray()
            with closing(answer["Body"]) as body:
                while chunk := body.read(CHUNK_BYTES):  # the last, empty read checks that the body was whole
                    content += chunk
                    if len(content) > MAX_JSON_BYTES:
                        raise DataError(f"{url} has more than {MAX_JSON_BYTES:,} bytes, expected a small file")
            return bytes(content), answer["Metadata"].get(SHA256_KEY, ""), answer["ETag"]

        return self._retry(f"reading {url}", request)

    def stored_sha256(self, url: S3Url) -> str | None:
        """The sha256 that was sent with the object; None if it was sent without."""
        return self._head(url).metadata.get(SHA256_KEY)

    def find(self, url: S3Url) -> StoredObject | None:
        """Size and metadata of the object; None if it does not exist."""
        try:
            return self._head(url)
        except MissingObjectError:
            return None

    def _head(self, url: S3Url) -> StoredObject:
        answer = self._retry(f"asking for {url}", lambda: self._s3.head_object(Bucket=url.bucket, Key=url.key))
        return StoredObject(answer["ContentLength"], answer["Metadata"])

    def delete(self, url: S3Url) -> None:
        """Deletes the object; an object that does not exist is no error."""
        self._retry(f"deleting {url}", lambda: self._s3.delete_object(Bucket=url.bucket, Key=url.key))

    def read_range_into(self, url: S3Url, start: int, stop: int, file_number: int) -> None:
        """Writes bytes [start, stop) of the object to the same place of an open file."""
        self._retry(
            f"reading bytes {start} to {stop - 1} of {url}", lambda: self._copy_range(url, start, stop, file_number)
        )

    def _copy_range(self, url: S3Url, start: int, stop: int, file_number: int) -> None:
        """One attempt. A connection that only trickles is given up like one that has stalled."""
        deadline = time.monotonic() + self.settings.timeout_sec + (stop - start) / LEAST_BYTES_PER_SEC
        answer = self._s3.get_object(Bucket=url.bucket, Key=url.key, Range=f"bytes={start}-{stop - 1}")
        if not answer.get("ContentRange", "").startswith(f"bytes {start}-{stop - 1}/"):
            raise TransferError(f"got {answer.get('ContentRange') or 'the whole object'}")
        place = start
        with closing(answer["Body"]) as body:
            for chunk in body.iter_chunks(CHUNK_BYTES):
                _write_all(file_number, chunk[: stop - place], place)
                place += len(chunk)
                if time.monotonic() > deadline:
                    raise TransferError(f"slower than {LEAST_BYTES_PER_SEC >> 10} kB/s")
        if place != stop:
            raise TransferError(f"the answer ended after {place - start} of {stop - start} bytes")

    def put(
        self,
        url: S3Url,
        data: bytes,
        sha256: str,
        *,
        metadata: Mapping[str, str] = EMPTY,
        md5: str = "",
        condition: Mapping[str, str] = EMPTY,
    ) -> None:
        """Writes a small object, whole or not at all.

        Args:
            sha256: of the data, kept as metadata.
            metadata: further metadata.
            md5: of the data in hex, where it is known already.
            condition: `IfNoneMatch` "*" (there is no such object) or `IfMatch` with an ETag (it is still this version),
                decided by the server.

        Raises:
            RefusedConditionError: the condition does not hold. It may be an earlier attempt of this very request that
                changed the object, if its answer was lost.
        """
        arguments = {"Bucket": url.bucket, "Key": url.key, "Metadata": {**metadata, SHA256_KEY: sha256}, **condition}
        content_md5 = _content_md5(data, md5)
        self._retry(f"writing {url}", lambda: self._s3.put_object(Body=data, ContentMD5=content_md5, **arguments))

    def create_multipart(self, url: S3Url, sha256: str, metadata: Mapping[str, str] = EMPTY) -> str:
        """Begins an object that is sent in parts and appears with `complete_multipart`; the upload's id."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "Metadata": {**metadata, SHA256_KEY: sha256}}
        return self._retry(f"writing {url}", lambda: self._s3.create_multipart_upload(**arguments))["UploadId"]

    def upload_part(self, url: S3Url, upload_id: str, number: int, data: bytes, md5: str = "") -> str:
        """Sends a part, numbered from 1; the part's ETag."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id, "PartNumber": number}
        content_md5 = _content_md5(data, md5)
        return self._retry(
            f"writing part {number} of {url}",
            lambda: self._s3.upload_part(Body=data, ContentMD5=content_md5, **arguments),
        )["ETag"]

    def complete_multipart(self, url: S3Url, upload_id: str, etags: Mapping[int, str]) -> None:
        """Makes the object out of its parts, given by number."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(etags.items())]
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        self._retry(f"completing {url}", lambda: self._s3.complete_multipart_upload(**arguments))

    def abort_multipart(self, url: S3Url, upload_id: str) -> None:
        """Deletes the parts of an unfinished upload."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id}
        self._retry(f"aborting the upload of {url}", lambda: self._s3.abort_multipart_upload(**arguments))

    def list_unfinished_uploads(self, url: S3Url) -> list[UnfinishedUpload]:
        """Multipart uploads below the prefix that were neither completed nor aborted."""
        prefix = f"{url.key}/" if url.key else ""
        return [
            UnfinishedUpload(found["Key"].removeprefix(prefix), found["UploadId"], found["Initiated"].timestamp())
            for found in self._list_multipart(url, prefix)
        ]

    def unfinished_uploads_of(self, url: S3Url) -> list[str]:
        """Ids of the unfinished multipart uploads of one object, the newest first."""
        found = (upload for upload in self._list_multipart(url, url.key) if upload["Key"] == url.key)
        return [one["UploadId"] for one in sorted(found, key=lambda one: one["Initiated"], reverse=True)]

    def _list_multipart(self, url: S3Url, prefix: str) -> list[dict[str, Any]]:
        name = f"listing unfinished uploads of {url}"
        return self._list(name, "list_multipart_uploads", "Uploads", Bucket=url.bucket, Prefix=prefix)

    def list_parts(self, url: S3Url, upload_id: str) -> dict[int, StoredPart]:
        """The parts of an unfinished upload, by their number."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id}
        parts = self._list(f"listing uploaded parts of {url}", "list_parts", "Parts", **arguments)
        return {part["PartNumber"]: StoredPart(part["Size"], part["ETag"]) for part in parts}

    def _list(self, request_name: str, operation: str, entries: str, **arguments: str) -> list[dict[str, Any]]:
        """All pages of a listing."""

        def all_pages() -> list[dict[str, Any]]:
            pages = self._s3.get_paginator(operation).paginate(**arguments)
            return [found for page in pages for found in page.get(entries, ())]

        return self._retry(request_name, all_pages)

    def _retry(self, request_name: str, request: Callable[[], Result]) -> Result:
        where = f" at {self.settings.endpoint_url}" if self.settings.endpoint_url else ""
        return retry_request(request_name + where, request, self.settings.num_attempts)


def _verified(url: S3Url, content: bytes, sha256: str) -> bytes:
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedObjectError(f"{url} is damaged: its sha256 is not {sha256[:16]}..., with which it was sent")
    return content


def client_of(settings: StorageConfig) -> Client:
    """This process's client for these settings."""
    return _client_of_process(with_endpoint(settings), os.getpid())


@lru_cache(maxsize=16)
def _client_of_process(settings: StorageConfig, _process_id: int) -> Client:
    return Client(settings)


def _content_md5(data: bytes, md5: str) -> str:
    """The header's value; `md5` is in hex, and computed where it is empty."""
    digest = bytes.fromhex(md5) if md5 else hashlib.md5(data, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def _write_all(file_number: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file_number, view, place)
        view, place = view[written:], place + written
