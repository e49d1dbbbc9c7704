"""Fetching through a bad network, from a bad store, onto a bad disk: right in the end, or an error and nothing kept."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoint_folders import write_checkpoint
from tests.support.fault_proxy import FOREVER, FaultProxy, fault_proxy
from tests.support.plan_samples import make_world
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.checkpoint.upload.remote import Prefix
from titan_speech.checkpoint.upload.transfer import pull, push
from titan_speech.checkpoint.verify import verify
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import CheckpointError, DataError
from titan_speech.storage import retry
from titan_speech.storage.cache import ObjectCache, object_cache
from titan_speech.storage.download import RANGE_BYTES, RemoteFile
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.storage.upload import digest_file, upload_file
from titan_speech.store.reader import open_store
from titan_speech.store.transfer import pull_store, push_store

BIG_BYTES = 2 * RANGE_BYTES + 1_000_000
SMALL_BYTES = 200_000
NUM_SMALL = 8
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.storage.test_faults"])


@dataclass(frozen=True)
class Objects:
    """What lies in the bucket."""

    big: RemoteFile
    small: tuple[RemoteFile, ...]


@pytest.fixture(scope="module")
def objects(s3_server: S3Server) -> Objects:
    """One of three ranges, and eight small ones."""
    client, rng = s3_server.client(), np.random.default_rng(0)

    def stored(name: str, num_bytes: int) -> RemoteFile:
        data = rng.bytes(num_bytes)
        client.put_object(Bucket=BUCKET, Key=f"faults/{name}", Body=data)
        return RemoteFile(S3Url(BUCKET, f"faults/{name}"), num_bytes, hashlib.sha256(data).hexdigest())

    small = tuple(stored(f"small-{i}", SMALL_BYTES) for i in range(NUM_SMALL))
    return Objects(stored("big", BIG_BYTES), small)


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(retry, "FIRST_WAIT_SEC", 0.02)
    with fault_proxy(s3_server.port) as running:
        yield running


@pytest.fixture
def settings(s3_server: S3Server, proxy: FaultProxy, tmp_path: Path) -> StorageConfig:
    return s3_server.settings(tmp_path / "cache", proxy.port)


def content(copies: ObjectCache, file: RemoteFile) -> str:
    return hashlib.sha256(copies.open(file)).hexdigest()


def kept(settings: StorageConfig) -> list[str]:
    return sorted(path.name for path in Path(settings.cache_dir).rglob("*") if path.is_file() and path.name != "lock")


@pytest.mark.parametrize(("fault", "number"), [("num_reset", 2), ("num_busy", 3), ("num_cut", 3), ("num_flipped", 1)])
def test_a_passing_fault_only_costs_time(
    fault: str, number: int, objects: Objects, proxy: FaultProxy, settings: StorageConfig
) -> None:
    setattr(proxy, fault, number)
    assert content(object_cache(settings), objects.big) == objects.big.sha256
    assert proxy.num_faults == number
    assert kept(settings) == [objects.big.sha256]


def test_a_slow_network_is_waited_for(objects: Objects, proxy: FaultProxy, settings: StorageConfig) -> None:
    proxy.pause_sec = 0.05
    assert content(object_cache(settings), objects.small[0]) == objects.small[0].sha256


def test_a_stalled_answer_is_asked_for_again(
    s3_server: S3Server, objects: Objects, proxy: FaultProxy, tmp_path
) -> None:
    proxy.num_stalled = 1
    settings = s3_server.settings(tmp_path / "cache", proxy.port, timeout_sec=0.5)
    assert content(object_cache(settings), objects.small[0]) == objects.small[0].sha256
    assert proxy.num_faults == 1


def test_a_network_that_stays_bad_is_given_up(objects: Objects, proxy: FaultProxy, settings: StorageConfig) -> None:
    proxy.num_busy = FOREVER
    with pytest.raises(DataError, match=r"failed 4 times.*can be reached"):
        object_cache(settings).open(objects.small[0])
    assert not Path(settings.cache_dir, "files", objects.small[0].sha256).exists()


def test_nobody_listening_is_said(s3_server: S3Server, objects: Objects, proxy: FaultProxy, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = s3_server.settings(tmp_path / "cache", probe.getsockname()[1], num_attempts=2)
        with pytest.raises(DataError, match=f"at {settings.endpoint_url} failed 2 times"):
            object_cache(settings).open(objects.small[0])


def test_bytes_that_are_always_wrong_are_never_kept(
    objects: Objects, proxy: FaultProxy, settings: StorageConfig
) -> None:
    proxy.num_flipped = FOREVER
    with pytest.raises(DataError, match="faults/small-0 is damaged"):
        object_cache(settings).open(objects.small[0])
    assert kept(settings) == []


def test_an_object_that_vanished_is_named(settings: StorageConfig, objects: Objects) -> None:
    gone = RemoteFile(S3Url(BUCKET, "faults/gone"), 5, "0" * 64)
    with pytest.raises(DataError, match=r"faults/gone.*no such object"):
        object_cache(settings).open(gone)


def test_an_upload_damaged_on_the_way_is_refused_and_sent_again(
    proxy: FaultProxy, settings: StorageConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"whole" * 1000)
    proxy.num_busy = 2
    file = tmp_path / "file"
    upload_file(client_of(settings), file, S3Url(BUCKET, "faults/sent"), digest_file(file, RANGE_BYTES))
    assert client_of(settings).read(S3Url(BUCKET, "faults/sent")) == b"whole" * 1000


def test_a_damaged_copy_on_this_node_is_fetched_again(
    s3_server: S3Server, objects: Objects, proxy: FaultProxy, settings: StorageConfig
) -> None:
    file = objects.small[0]
    object_cache(settings).fetch(file)
    path = Path(settings.cache_dir, "files", file.sha256)
    path.chmod(0o644)
    path.write_bytes(bytes(SMALL_BYTES))
    later = ObjectCache(client_of(settings), settings)  # as another process, which has not hashed it yet
    assert content(later, file) == file.sha256


def test_the_cap_holds_and_what_is_in_use_stays(s3_server: S3Server, objects: Objects, proxy, tmp_path: Path) -> None:
    settings = s3_server.settings(tmp_path / "cache", proxy.port, cache_gb=3.5 * SMALL_BYTES / 1e9)
    copies, small = object_cache(settings), objects.small
    pinned = copies.open(small[0])
    for file in small[1:]:
        copies.fetch(file)
        assert copies.space.used_bytes() <= settings.cache_gb * 1e9
    assert copies.has(small[0])
    assert copies.has(small[-1])
    assert not copies.has(small[1])
    assert hashlib.sha256(pinned).hexdigest() == small[0].sha256
    pins = [copies.open(file) for file in (small[0], *small[-2:])]
    with pytest.raises(DataError, match=r"in use by running processes.*raise storage\.cache_gb"):
        copies.fetch(small[3])
    assert len(kept(settings)) == 3
    del pins, pinned
    copies.fetch(small[3])


def fetch_all(settings: StorageConfig, files: tuple[RemoteFile, ...], rounds: int = 1) -> None:
    """What a process of the node does; an exit code of 1 unless everything it reads is right."""
    copies = object_cache(settings)
    for i in range(rounds):
        for file in (
            np.random.default_rng([os.getpid(), i]).permutation(np.array(files, object)) if rounds > 1 else files
        ):
            assert content(copies, file) == file.sha256


def run_processes(number: int, *arguments: object) -> None:
    processes = [PROCESSES.Process(target=fetch_all, args=arguments) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def test_eight_processes_fetch_each_object_once(objects: Objects, proxy: FaultProxy, settings: StorageConfig) -> None:
    files = (*objects.small, objects.big)
    run_processes(8, settings, files)
    expected = BIG_BYTES + NUM_SMALL * SMALL_BYTES
    assert expected <= proxy.num_bytes <= expected + 20_000
    assert kept(settings) == sorted(file.sha256 for file in files)


def test_who_waits_for_a_fill_is_not_held_up_by_its_pin(
    objects: Objects, proxy: FaultProxy, settings: StorageConfig
) -> None:
    proxy.pause_sec = 0.02
    copies = object_cache(settings)
    with ThreadPoolExecutor(4) as pool:
        mapped = list(pool.map(lambda _: copies.open(objects.small[0]), range(4), timeout=30))  # none is closed
    assert len(mapped) == 4


def test_eviction_never_takes_a_file_from_under_a_reader(
    s3_server: S3Server, objects: Objects, proxy: FaultProxy, tmp_path: Path
) -> None:
    settings = s3_server.settings(tmp_path / "cache", proxy.port, cache_gb=5.5 * SMALL_BYTES / 1e9)
    run_processes(4, settings, objects.small, 5)
    assert proxy.num_bytes > 2 * NUM_SMALL * SMALL_BYTES, "nothing was evicted"


def test_a_killed_fill_is_gone_on_with(objects: Objects, proxy: FaultProxy, settings: StorageConfig) -> None:
    proxy.pause_sec = 0.004
    process = PROCESSES.Process(target=fetch_all, args=(settings, (objects.big,)))
    process.start()
    partial = Path(settings.cache_dir, "partial", objects.big.sha256)
    deadline = time.monotonic() + 60
    while not (partial.exists() and b"\1" in partial.read_bytes()[BIG_BYTES:]):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert kept(settings) == [objects.big.sha256]
    assert partial.exists()
    proxy.pause_sec, proxy.num_bytes = 0.0, 0
    assert content(object_cache(settings), objects.big) == objects.big.sha256
    assert proxy.num_bytes < BIG_BYTES - 900_000, "all ranges were fetched again"


def test_a_partial_file_that_lies_is_fetched_anew(objects: Objects, settings: StorageConfig) -> None:
    """As after a power cut that kept the record and lost the bytes."""
    copies = object_cache(settings)
    partial = Path(settings.cache_dir, "partial", objects.big.sha256)
    partial.write_bytes(bytes(BIG_BYTES) + b"\1\1\1")
    assert content(copies, objects.big) == objects.big.sha256


def fetch_with_little_room(settings: StorageConfig, file: RemoteFile) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES // 2, SMALL_BYTES // 2))
    with pytest.raises(DataError, match=r"no space for 200,000 bytes.*storage\.cache_dir"):
        object_cache(settings).open(file)


def test_a_limit_on_files_is_said_and_leaves_nothing(objects: Objects, settings: StorageConfig) -> None:
    process = PROCESSES.Process(target=fetch_with_little_room, args=(settings, objects.small[0]))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert kept(settings) == []


_FULL_DISK = """
import sys
from pathlib import Path
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import CheckpointError, DataError
from titan_speech.storage.cache import object_cache
from titan_speech.storage.download import RemoteFile
from titan_speech.storage.s3_url import S3Url
endpoint, cache, *sha256s = sys.argv[1:]
copies = object_cache(StorageConfig(endpoint_url=endpoint, cache_dir=cache, num_attempts=2))
files = [RemoteFile(S3Url("stores", f"faults/small-{i}"), 200_000, sha256) for i, sha256 in enumerate(sha256s)]
for file in files:
    copies.fetch(file)
assert copies.has(files[-1]) and not copies.has(files[0])
pins = [copies.open(file) for file in files[-4:]]
try:
    copies.fetch(files[0])
except DataError as error:
    assert "no space for 200,000 bytes" in str(error), error
    assert not list(Path(cache, "partial").iterdir())
else:
    raise AssertionError("a fifth file on a disk for four")
"""


def test_a_full_disk_evicts_first_and_then_is_said(s3_server: S3Server, objects: Objects, tmp_path: Path) -> None:
    """On a disk of 1 MB, which a user may mount in a name space of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    inner = f'mount -t tmpfs -o size=900k tmpfs "{disk}" && exec "$@"'
    names = [file.sha256 for file in objects.small]
    python = (sys.executable, "-c", _FULL_DISK, s3_server.endpoint_url, str(disk), *names)
    command = ("unshare", "--mount", "--map-root-user", "sh", "-c", inner, "sh", *python)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_sent_with_sum", [True, False])
def test_a_manifest_that_changed_on_the_way_is_read_again_and_one_that_is_damaged_is_refused(
    proxy: FaultProxy, settings: StorageConfig, s3_server: S3Server, tmp_path: Path, is_sent_with_sum: bool
) -> None:
    store, url = make_world(tmp_path, num_samples=30).store, S3Url(BUCKET, f"flipped-{is_sent_with_sum}")
    push_store(store, url, s3_server.settings(tmp_path / "cache"))
    if not is_sent_with_sum:  # as other programs copy it
        copied = (store / "manifest.json").read_bytes()
        s3_server.client().put_object(Bucket=BUCKET, Key=url.child("manifest.json").key, Body=copied)
    proxy.num_flipped = 1
    assert open_store(str(url), settings).fingerprint == open_store(store).fingerprint
    proxy.num_flipped = 1
    pull_store(url, tmp_path / "back", settings)
    assert open_store(tmp_path / "back").fingerprint == open_store(store).fingerprint
    assert proxy.num_faults == 2
    proxy.num_flipped = FOREVER
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        open_store(str(url), settings)


def test_a_checkpoints_manifest_that_changed_on_the_way_is_read_again(
    proxy: FaultProxy, settings: StorageConfig, s3_server: S3Server, tmp_path: Path
) -> None:
    run, url = tmp_path / "run", f"s3://{BUCKET}/flipped-run"
    write_checkpoint(run / "checkpoint", 10, num_ranks=40, model_bytes=1000)  # answers longer than one read
    push(run, run / "checkpoint", url, s3_server.settings(tmp_path / "cache"))
    expected = Prefix(client_of(s3_server.settings(tmp_path / "cache")), S3Url.parse(url)).read("step-10")
    proxy.num_flipped = 1
    assert Prefix(client_of(settings), S3Url.parse(url)).read("step-10") == expected
    proxy.num_flipped = 1
    pull(url, tmp_path / "back", tmp_path / "back" / "checkpoint", settings)
    assert verify(tmp_path / "back" / "checkpoint" / "step-10", checksums=True).is_sound
    assert proxy.num_faults == 2
    proxy.num_flipped = FOREVER
    with pytest.raises(CheckpointError, match=r"step-10\.json is damaged.*push the checkpoint again"):
        Prefix(client_of(settings), S3Url.parse(url)).read("step-10")
