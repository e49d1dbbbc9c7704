"""Which requests are asked again, and when.

In: a request as a function. Out: its result, or a `DataError` that says what was asked of which place and what to do.

botocore's own retries are off: they end where the headers of an answer have come, and most of what goes wrong with a
shard of 128 MB goes wrong in its body. Here one loop covers the whole of a range. Waits are random between 0 and
0.5, 1, 2, ... 20 s ("full jitter"), so that ranks that failed together do not come back together; ten attempts last
about a minute, longer than a restart of a server.

A limit of bytes a second, shared by the threads of a process.

In: a rate and the sizes of what is about to be sent. Out: waits, so that the rate holds on average; what is sent at
once (a part of 16 MB) goes as fast as the network takes it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)

from titan_speech.errors import DataError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
FIRST_WAIT_SEC, LONGEST_WAIT_SEC = 0.5, 20.0
_TRANSIENT_CODES = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "BadDigest"})
_REFUSED_CODES = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "Forbidden", "Unauthorized"})
_STALE_CODES = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"})
_SET_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment of every node"


class TransferError(Exception):
    """An answer that is not what was asked for, or too slow: worth another attempt."""


class MissingObjectError(DataError):
    """The object is not there."""


class UnreachableError(DataError):
    """The server does not answer, or answers that it cannot; later it may."""


def retried(what: str, call: Callable[[], Result], num_attempts: int) -> Result:
    """`what` names the request in messages: "reading s3://bucket/key"."""
    for attempt in range(1, num_attempts + 1):
        try:
            return call()
        except (BotoCoreError, ClientError, TransferError) as error:
            if not is_transient(error):
                raise _final(what, error) from error
            if attempt == num_attempts:
                raise UnreachableError(
                    f"{what} failed {num_attempts} times, last with: {error}; check that the endpoint is right and "
                    "can be reached from this node, then start again: what was fetched is kept"
                ) from error
            wait_sec = random.uniform(0, min(LONGEST_WAIT_SEC, FIRST_WAIT_SEC * 2 ** (attempt - 1)))
            logger.warning("%s: %s; attempt %d of %d in %.1f s", what, error, attempt + 1, num_attempts, wait_sec)
            time.sleep(wait_sec)
    raise AssertionError(f"num_attempts is {num_attempts}, expected at least 1")


def is_transient(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or error_code(error) in _TRANSIENT_CODES
    passing = (TransferError, ConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError)
    return isinstance(error, passing)


def error_code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _final(what: str, error: Exception) -> DataError:
    """What no further attempt would change, with the next step."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return DataError(f"{what}: no credentials found ({error}); {_SET_CREDENTIALS}")
    if not isinstance(error, ClientError):
        return DataError(f"{what}: {error}")
    code, status = error_code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return DataError(f"{what}: the bucket does not exist there; check its name and storage.endpoint_url")
    if code in ("NoSuchKey", "NoSuchUpload", "404", "NotFound"):
        return MissingObjectError(f"{what}: there is no such object")
    if code in _STALE_CODES:
        return DataError(f"{what}: credentials no longer hold ({code}); renew them, and check this machine's clock")
    if code in _REFUSED_CODES or status in (401, 403):
        return DataError(
            f"{what}: credentials were refused ({code}); {_SET_CREDENTIALS}, with the right to this bucket"
        )
    return DataError(f"{what}: {error}")


class Pace:
    """`take(num_bytes)` returns when these bytes may go; a rate of 0 is no limit."""

    def __init__(
        self,
        bytes_per_sec: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_sec, self._now, self._sleep = bytes_per_sec, now, sleep
        self._free_at, self._lock = now(), Lock()

    def take(self, num_bytes: int) -> None:
        if not self.bytes_per_sec:
            return
        with self._lock:
            begin = max(self._free_at, self._now())
            self._free_at = begin + num_bytes / self.bytes_per_sec
        self._sleep(max(0.0, begin - self._now()))
