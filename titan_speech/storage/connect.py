"""Connections to a server of object storage, and whether it can be reached at all.

In: a `StorageConfig`. Out: boto3's client. Credentials come from the environment or the AWS configuration alone, as
boto3 finds them. Checksum modes are `when_required`, since R2 refuses the ones botocore adds by default.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
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
from titan_speech.storage.retry import UnreachableError
from titan_speech.storage.s3_url import S3Url, is_s3

if TYPE_CHECKING:
    from botocore.client import BaseClient

ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CONNECT_SEC = 5.0
"""Of `check_reachable`, for each address of the server's name; a connection across an ocean takes 0.3 s."""


def connect(settings: StorageConfig, connect_sec: float) -> BaseClient:
    """boto3's client; `connect_sec` limits each attempt to connect."""
    import boto3.session

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


def with_endpoint(settings: StorageConfig) -> StorageConfig:
    """The settings with the server that the environment names, if they name none."""
    endpoint_url = settings.endpoint_url or next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), "")
    return replace(settings, endpoint_url=endpoint_url)


def check_reachable(settings: StorageConfig, places: Iterable[str | os.PathLike[str]]) -> None:
    """Fails within seconds when the server of an address cannot be reached at all.

    A run waits a minute for a server that restarts (retry.py), but somebody at a terminal who mistyped a port should
    not. Any answer will do, a refusal too: the request that needs it reports what it means.

    Args:
        places: paths and addresses; only the bucket of the first address is requested, since all of a command are on
            one server.

    Raises:
        UnreachableError: no server answers.
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
            f"{client.meta.endpoint_url} cannot be reached for {urls[0]}: {_innermost_cause(error)}; check "
            "--endpoint-url (or storage.endpoint_url, AWS_ENDPOINT_URL), its port, and that the network, proxy and "
            "firewall of this machine let it through"
        ) from error
    except BotoCoreError:
        return  # it was reached, or credentials are missing: the request that needs them reports it in full


def _innermost_cause(error: BotoCoreError) -> str:
    """Such as `[Errno 111] Connection refused`."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    return str(inner) or str(error)
