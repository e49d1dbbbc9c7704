"""A file in parts: what was sent stays sent, what changed is refused, the network's faults cost only time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.fault_proxy import FOREVER, FaultProxy, fault_proxy
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.errors import DataError
from titan_speech.storage import retry
from titan_speech.storage.retry import RateLimiter
from titan_speech.storage.s3 import Client, client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.storage.upload import digest_file, upload_file

PART_BYTES = 5 << 20
NUM_BYTES = 3 * PART_BYTES + 1000
UNLIMITED = RateLimiter(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "shard").write_bytes(np.random.default_rng(0).bytes(NUM_BYTES))
    return tmp_path / "shard"


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(retry, "FIRST_WAIT_SEC", 0.02)
    with fault_proxy(s3_server.port) as running:
        yield running


@pytest.fixture
def client(s3_server: S3Server, proxy: FaultProxy, tmp_path: Path) -> Client:
    return client_of(s3_server.settings(tmp_path / "cache", proxy.port))


def url_of(test: str) -> S3Url:
    return S3Url(BUCKET, f"resumable/{test}")


def test_parts_that_were_sent_are_not_sent_again(client: Client, path: Path, proxy: FaultProxy) -> None:
    url, digest, data = url_of("again"), digest_file(path, PART_BYTES), path.read_bytes()
    upload_id = client.create_multipart(url, digest.sha256, digest.metadata)
    for number in (1, 3):
        begin, num_bytes = digest.span(number)
        client.upload_part(url, upload_id, number, data[begin : begin + num_bytes])
    before, reported = proxy.num_sent_bytes, []
    assert upload_file(client, path, url, digest, UNLIMITED, reported.append) == NUM_BYTES - 2 * PART_BYTES
    assert proxy.num_sent_bytes - before < NUM_BYTES - 2 * PART_BYTES + 100_000
    assert sum(reported) == NUM_BYTES
    assert client.read(url) == data
    assert client.unfinished_uploads_of(url) == []
    assert upload_file(client, path, url, digest, UNLIMITED) == 0


def test_a_network_that_goes_away_leaves_the_parts_for_the_next_attempt(
    s3_server: S3Server, path: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    client = client_of(s3_server.settings(tmp_path / "cache", proxy.port, num_connections=1))  # a part at a time
    url, digest = url_of("away"), digest_file(path, PART_BYTES)

    def go_away(num_bytes: int) -> None:
        proxy.num_busy = FOREVER

    with pytest.raises(DataError, match="failed 4 times"):
        upload_file(client, path, url, digest, UNLIMITED, go_away)
    proxy.num_busy = 0
    assert client.find(url) is None
    assert upload_file(client, path, url, digest, UNLIMITED) < NUM_BYTES
    assert hashlib.sha256(client.read(url)).hexdigest() == digest.sha256


@pytest.mark.parametrize(("fault", "number"), [("num_reset", 2), ("num_busy", 3), ("num_dropped", 3)])
def test_a_passing_fault_only_costs_time(
    fault: str, number: int, client: Client, path: Path, proxy: FaultProxy
) -> None:
    setattr(proxy, fault, number)
    upload_file(client, path, url_of(fault), digest_file(path, PART_BYTES), UNLIMITED)
    assert client.read(url_of(fault)) == path.read_bytes()
    assert proxy.num_faults == number


def test_parts_of_another_file_are_not_taken_for_this_ones(client: Client, path: Path, tmp_path: Path) -> None:
    url, data = url_of("other"), path.read_bytes()
    (tmp_path / "other").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    other, digest = digest_file(tmp_path / "other", PART_BYTES), digest_file(path, PART_BYTES)
    upload_id = client.create_multipart(url, other.sha256, other.metadata)
    client.upload_part(url, upload_id, 1, data[:PART_BYTES])  # the same bytes, but noted with the other's sha256
    with pytest.raises(DataError, match="sent again"):
        upload_file(client, path, url, digest, UNLIMITED)
    assert client.find(url) is None
    upload_file(client, path, url, digest, UNLIMITED)
    assert client.stored_sha256(url) == digest.sha256


@pytest.mark.parametrize("num_bytes", [NUM_BYTES, 1000, 0])
def test_a_file_that_changed_since_it_was_hashed_is_not_sent(client: Client, tmp_path: Path, num_bytes: int) -> None:
    path, url = tmp_path / "file", url_of(f"changed-{num_bytes}")
    path.write_bytes(bytes(num_bytes))
    digest = digest_file(path, PART_BYTES)
    path.write_bytes(bytes(num_bytes - 1) + b"\1" if num_bytes else b"")
    if num_bytes:
        with pytest.raises(DataError, match="changed while it was uploaded"):
            upload_file(client, path, url, digest, UNLIMITED)
        assert client.find(url) is None
    else:
        upload_file(client, path, url, digest, UNLIMITED)
        assert client.read(url) == b""


def test_the_rate_limit_holds_over_all_threads() -> None:
    clock = [0.0]
    waits: list[float] = []
    limiter = RateLimiter(100, now=lambda: clock[0], sleep=waits.append)
    for _ in range(4):
        limiter.take(50)
    assert waits == [0.0, 0.5, 1.0, 1.5]
    clock[0] = 10.0
    limiter.take(50)
    assert waits[-1] == 0.0
    UNLIMITED.take(1 << 40)
