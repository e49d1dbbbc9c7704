"""Which requests to object storage are retried, and when; a rate limit for uploads.

In: a request as a function. Out: its result, or a `DataError` that says what was requested from where and what to do.

botocore's own retries are off: they end once the headers of an answer have come, and most of what goes wrong with a
shard of 128 MB goes wrong in its body. Their standard mode also shares one quota of at most 100 retries among the
threads of a client, which 16 connections use up while a server restarts. Here one loop covers the whole of a range.
Waits are random between 0 and 0.5, 1, 2, ... 20 s ("full jitter"), so that ranks that failed together do not come back
together; ten attempts last about a minute, longer than a restart of a server.
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
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "BadDigest", "ConditionalRequestConflict"}
)
_MISSING_CODES = frozenset({"NoSuchKey", "NoSuchUpload", "404", "NotFound"})
_REFUSED_CODES = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "Forbidden", "Unauthorized"})
_EXPIRED_CODES = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"})
_SET_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment of every node"


class TransferError(Exception):
    """An answer that is too slow or not what was requested; it is retried."""


class MissingObjectError(DataError):
    """There is no such object."""


class RefusedConditionError(DataError):
    """A conditional write was refused: the object is not as the condition says."""


class UnreachableError(DataError):
    """The server does not answer, or answers that it cannot serve now; it may later."""


def retry_request(request_name: str, request: Callable[[], Result], num_attempts: int) -> Result:
    """Runs a request until it succeeds, fails for good, or was tried often enough.

    Args:
        request_name: names the request in messages, such as "reading s3://bucket/key".
        request: called once per attempt.
        num_attempts: at least 1.

    Raises:
        MissingObjectError: there is no such object.
        RefusedConditionError: the condition of a write does not hold.
        UnreachableError: every attempt failed by an error that may pass.
        DataError: credentials, bucket or request are wrong; raised at the first attempt.
    """
    for attempt in range(1, num_attempts + 1):
        try:
            return request()
        except (BotoCoreError, ClientError, TransferError) as error:
            if not is_transient(error):
                raise _permanent_error(request_name, error) from error
            if attempt == num_attempts:
                raise UnreachableError(
                    f"{request_name} failed {num_attempts} times, last with: {error}; check that the endpoint is right "
                    "and can be reached from this node, then start again: what was fetched is kept"
                ) from error
            longest_sec = min(LONGEST_WAIT_SEC, FIRST_WAIT_SEC * 2 ** (attempt - 1))
            wait_sec = random.uniform(0, longest_sec)  # noqa: S311  (spreads retries, protects nothing)
            logger.warning(
                "%s: %s; attempt %d of %d in %.1f s", request_name, error, attempt + 1, num_attempts, wait_sec
            )
            time.sleep(wait_sec)
    raise AssertionError(f"num_attempts is {num_attempts}, expected at least 1")


def is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, ClientError):
        return _status(error) >= 500 or _status(error) == 429 or _code(error) in _TRANSIENT_CODES
    return isinstance(
        error, TransferError | ConnectionError | HTTPClientError | IncompleteReadError | ResponseStreamingError
    )


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _permanent_error(request_name: str, error: Exception) -> DataError:
    """An error that no further attempt would change, with the next step."""
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return DataError(f"{request_name}: no credentials found ({error}); {_SET_CREDENTIALS}")
    if not isinstance(error, ClientError):
        return DataError(f"{request_name}: {error}")
    code = _code(error)
    if code == "NoSuchBucket":
        return DataError(f"{request_name}: the bucket does not exist; check its name and storage.endpoint_url")
    if code in _MISSING_CODES:
        return MissingObjectError(f"{request_name}: there is no such object")
    if _status(error) == 412:
        return RefusedConditionError(f"{request_name}: the condition does not hold")
    if code in _EXPIRED_CODES:
        return DataError(f"{request_name}: credentials expired ({code}); renew them, and check this machine's clock")
    if code in _REFUSED_CODES or _status(error) in (401, 403):
        return DataError(
            f"{request_name}: credentials were refused ({code}); {_SET_CREDENTIALS}, with the right to this bucket"
        )
    return DataError(f"{request_name}: {error}")


class RateLimiter:
    """Limits the bytes per second of all threads of a process.

    `take(num_bytes)` returns when these bytes may be sent. The rate holds on average: a part of 16 MB is sent as fast
    as the network takes it. A rate of 0 is no limit.
    """

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
