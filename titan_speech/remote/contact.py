"""Whether the server of an address can be reached at all, before a command begins with its work.

In: settings and addresses. Out: nothing, or an error within seconds. A run waits a minute for a server that restarts
(retry.py), but somebody at a terminal who mistyped a port should not. Any answer will do, a refusal too: what it means
is told by the request that needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    SSLError,
)

from titan_speech.config.tables import StorageTable
from titan_speech.remote.client import connect, with_endpoint
from titan_speech.remote.retry import UnreachableError
from titan_speech.remote.url import S3Url, is_s3

CONNECT_SEC = 5.0
"""For each address of the server's name; a connection across an ocean takes 0.3 s."""


def reach(settings: StorageTable, places: Iterable[str | os.PathLike[str]]) -> None:
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
