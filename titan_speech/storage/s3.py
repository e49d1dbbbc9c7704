"""`s3://bucket/prefix`, taken apart.

In: text. Out: `S3Url`. A `pathlib.Path` made of such text has lost one slash (`s3:/bucket`); it is read as what was
meant, since no folder is called `s3:`.

Requests to S3, R2 and what speaks their protocol.

In: a `StorageTable` and addresses. Out: sizes, bytes, ranges written into files. Credentials come from the environment
or the AWS configuration alone, as boto3 finds them. Checksum modes are `when_required`, since R2 refuses the ones
botocore adds by default; what is sent carries a Content-MD5 instead, which every server checks.

One client a process: a forked process makes its own, as two must not share sockets.

Whether the server of an address can be reached at all, before a command begins with its work.

In: settings and addresses. Out: nothing, or an error within seconds. A run waits a minute for a server that restarts
(retry.py), but somebody at a terminal who mistyped a port should not. Any answer will do, a refusal too: what it means
is told by the request that needs it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    SSLError,
)

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.retry import MissingObjectError, TransferError, UnreachableError, retried

if TYPE_CHECKING:
    from botocore.client import BaseClient


_SCHEME = re.compile(r"s3:/+")
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]")


@dataclass(frozen=True)
class S3Url:
    """An object, or the prefix of several; the key has no slash at its ends."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> S3Url:
        scheme = _SCHEME.match(os.fspath(text))
        bucket, _, key = os.fspath(text)[scheme.end() if scheme else 0 :].partition("/")
        if scheme is None:
            raise DataError(f'"{text}" names no place in object storage; expected s3://bucket/prefix')
        if not _BUCKET.fullmatch(bucket):
            raise DataError(
                f'"{text}" names the bucket "{bucket}"; expected s3://bucket/prefix, a bucket of 3 to 63 letters, '
                'digits, ".", "_" and "-"'
            )
        if "//" in key or set(key.split("/")) & {".", ".."}:
            raise DataError(f'"{text}": expected a prefix without empty parts, "." and ".."')
        return cls(bucket, key.strip("/"))

    def child(self, path: str) -> S3Url:
        return S3Url(self.bucket, f"{self.key}/{path}" if self.key else path)

    @property
    def name(self) -> str:
        """The last part."""
        return (self.key or self.bucket).rpartition("/")[2]

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"


def is_s3(text: str | os.PathLike[str]) -> bool:
    return _SCHEME.match(os.fspath(text)) is not None


CHUNK_BYTES = 1 << 20
LEAST_BYTES_PER_SEC = 32 << 10
SHA256_KEY = "sha256"
NO_NOTES: Mapping[str, str] = MappingProxyType({})
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


@dataclass(frozen=True)
class StoredObject:
    """An object as it was sent; `notes` went along with it, its sha256 among them."""

    num_bytes: int
    notes: Mapping[str, str]


@dataclass(frozen=True)
class ListedObject:
    """An object as a listing tells of it."""

    num_bytes: int
    written_unix_sec: float
    """By the server's clock."""


@dataclass(frozen=True)
class UnfinishedUpload:
    """An object that was begun in parts and never finished; its parts are paid for and not listed."""

    path: str
    upload_id: str
    begun_unix_sec: float


@dataclass(frozen=True)
class StoredPart:
    """A part of an unfinished upload; the ETag is the MD5 of its bytes, but for servers that encrypt by own keys."""

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
        """Every object below the prefix, by its path from there."""
        prefix = f"{url.key}/" if url.key else ""

        def listed() -> dict[str, ListedObject]:
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=url.bucket, Prefix=prefix)
            objects = (found for page in pages for found in page.get("Contents", ()))
            return {
                found["Key"].removeprefix(prefix): ListedObject(found["Size"], found["LastModified"].timestamp())
                for found in objects
            }

        return self._retried(f"listing {url}", listed)

    def list_unfinished(self, url: S3Url) -> list[UnfinishedUpload]:
        """Uploads in parts below the prefix that were neither finished nor abandoned."""
        prefix = f"{url.key}/" if url.key else ""

        def listed() -> list[UnfinishedUpload]:
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=url.bucket, Prefix=prefix)
            found = (upload for page in pages for upload in page.get("Uploads", ()))
            return [
                UnfinishedUpload(one["Key"].removeprefix(prefix), one["UploadId"], one["Initiated"].timestamp())
                for one in found
            ]

        return self._retried(f"asking for parts below {url}", listed)

    def read(self, url: S3Url) -> bytes:
        """The whole object; for small ones."""

        def body() -> bytes:
            answer = self._s3.get_object(Bucket=url.bucket, Key=url.key)
            return answer["Body"].read()

        return self._retried(f"reading {url}", body)

    def stored_sha256(self, url: S3Url) -> str | None:
        """What `upload` noted with the object."""
        return self._head(url).notes.get(SHA256_KEY)

    def find(self, url: S3Url) -> StoredObject | None:
        """What is known of the object; None if it is not there."""
        try:
            return self._head(url)
        except MissingObjectError:
            return None

    def _head(self, url: S3Url) -> StoredObject:
        answer = self._retried(f"asking for {url}", lambda: self._s3.head_object(Bucket=url.bucket, Key=url.key))
        return StoredObject(answer["ContentLength"], answer["Metadata"])

    def delete(self, url: S3Url) -> None:
        """The object is gone; none there is no error."""
        self._retried(f"deleting {url}", lambda: self._s3.delete_object(Bucket=url.bucket, Key=url.key))

    def read_range_into(self, url: S3Url, start: int, stop: int, file_number: int) -> None:
        """Bytes [start, stop) of the object to the same place of an open file."""
        self._retried(
            f"reading bytes {start} to {stop - 1} of {url}", lambda: self._copy_range(url, start, stop, file_number)
        )

    def _copy_range(self, url: S3Url, start: int, stop: int, file_number: int) -> None:
        """A connection that only trickles is given up, as one that has stalled is."""
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

    def put(self, url: S3Url, data: bytes, sha256: str, notes: Mapping[str, str] = NO_NOTES) -> None:
        """A small object, whole or not at all; `notes` are kept with it."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "Metadata": {**notes, SHA256_KEY: sha256}}
        digest = _content_md5(data)
        self._retried(f"writing {url}", lambda: self._s3.put_object(Body=data, ContentMD5=digest, **arguments))

    def start_parts(self, url: S3Url, sha256: str, notes: Mapping[str, str] = NO_NOTES) -> str:
        """Begins an object that is sent in parts; it appears with `finish_parts`."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "Metadata": {**notes, SHA256_KEY: sha256}}
        return self._retried(f"writing {url}", lambda: self._s3.create_multipart_upload(**arguments))["UploadId"]

    def unfinished_uploads(self, url: S3Url) -> list[str]:
        """Uploads in parts of this object that were neither finished nor abandoned, the newest first."""

        def listed() -> list[str]:
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=url.bucket, Prefix=url.key)
            found = (upload for page in pages for upload in page.get("Uploads", ()) if upload["Key"] == url.key)
            return [one["UploadId"] for one in sorted(found, key=lambda one: one["Initiated"], reverse=True)]

        return self._retried(f"asking for parts of {url}", listed)

    def parts_there(self, url: S3Url, upload_id: str) -> dict[int, StoredPart]:
        """The parts of an unfinished upload, by their number."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id}

        def listed() -> dict[int, StoredPart]:
            pages = self._s3.get_paginator("list_parts").paginate(**arguments)
            parts = (part for page in pages for part in page.get("Parts", ()))
            return {part["PartNumber"]: StoredPart(part["Size"], part["ETag"]) for part in parts}

        return self._retried(f"asking for parts of {url}", listed)

    def put_part(self, url: S3Url, upload_id: str, number: int, data: bytes) -> str:
        """The part's ETag."""
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id, "PartNumber": number}
        digest = _content_md5(data)
        return self._retried(
            f"writing part {number} of {url}",
            lambda: self._s3.upload_part(Body=data, ContentMD5=digest, **arguments),
        )["ETag"]

    def finish_parts(self, url: S3Url, upload_id: str, etags: Mapping[int, str]) -> None:
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(etags.items())]
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id, "MultipartUpload": {"Parts": parts}}
        self._retried(f"completing {url}", lambda: self._s3.complete_multipart_upload(**arguments))

    def abandon_parts(self, url: S3Url, upload_id: str) -> None:
        arguments = {"Bucket": url.bucket, "Key": url.key, "UploadId": upload_id}
        self._retried(f"abandoning {url}", lambda: self._s3.abort_multipart_upload(**arguments))

    def _retried(self, what, call):
        where = f" at {self.settings.endpoint_url}" if self.settings.endpoint_url else ""
        return retried(what + where, call, self.settings.num_attempts)


def connect(settings: StorageConfig, connect_sec: float) -> BaseClient:
    """boto3's client; `connect_sec` for each attempt to connect."""
    import boto3.session
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=connect_sec,
        read_timeout=settings.timeout_sec,
        max_pool_connections=settings.num_connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.session.Session()
        region = session.region_name or os.environ.get("AWS_REGION") or "us-east-1"
        return session.client("s3", endpoint_url=settings.endpoint_url or None, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise DataError(
            f"object storage cannot be used: {error}; check --endpoint-url (or "
            "storage.endpoint_url, AWS_ENDPOINT_URL) and AWS_PROFILE"
        ) from error


def client_of(settings: StorageConfig) -> Client:
    """This process's client for these settings."""
    return _client_of_process(with_endpoint(settings), os.getpid())


def with_endpoint(settings: StorageConfig) -> StorageConfig:
    """With the server that the environment names, if the settings name none."""
    endpoint_url = settings.endpoint_url or next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), "")
    return replace(settings, endpoint_url=endpoint_url)


@lru_cache(maxsize=16)
def _client_of_process(settings: StorageConfig, _process_id: int) -> Client:
    return Client(settings)


def _content_md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _write_all(file_number: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file_number, view, place)
        view, place = view[written:], place + written


CONNECT_SEC = 5.0
"""For each address of the server's name; a connection across an ocean takes 0.3 s."""


def check_reachable(settings: StorageConfig, places: Iterable[str | os.PathLike[str]]) -> None:
    """Asks the server for the bucket of the first place that is an address; the others lie on the same server.

    Raises:
        UnreachableError: nobody answers there.
        DataError: an address or the settings cannot be used.
    """
    urls = [S3Url.parse(place) for place in places if is_s3(place)]
    if not urls:
        return
    client = connect(with_endpoint(settings), connect_sec=CONNECT_SEC)
    try:
        with suppress(ClientError):
            client.head_bucket(Bucket=urls[0].bucket)
    except (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError) as error:
        raise UnreachableError(
            f"{client.meta.endpoint_url} cannot be reached for {urls[0]}: {_reason(error)}; check --endpoint-url (or "
            "storage.endpoint_url, AWS_ENDPOINT_URL), its port, and that the network, proxy and firewall of this "
            "machine let it through"
        ) from error
    except BotoCoreError:
        return  # it was reached, or credentials are missing: told in full by the request that needs it


def _reason(error: BotoCoreError) -> str:
    """The innermost cause, such as `[Errno 111] Connection refused`."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    return str(inner) or str(error)
