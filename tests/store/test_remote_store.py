"""A store at s3://, read like one in a folder: the same samples, packs, descriptions and refusals."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from tests.support.plan_samples import World, make_world
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.config.schema_data import StorageConfig
from titan_speech.data.inspect import order_digest
from titan_speech.data.plan import DataPlan
from titan_speech.data.shard_prefetch import ShardPrefetcher, files_of_plan, files_of_slot, look_ahead_of
from titan_speech.errors import DataError
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.describe import describe_store
from titan_speech.store.files import LookAhead
from titan_speech.store.manifest import Kind
from titan_speech.store.reader import Store, open_store
from titan_speech.store.transfer import push_store
from titan_speech.store.verify import stored_files, verify_store


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), num_samples=30)


@pytest.fixture(scope="module")
def address(s3_server: S3Server, world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    push_store(world.store, S3Url(BUCKET, "world"), s3_server.settings(tmp_path_factory.mktemp("unused")))
    return f"s3://{BUCKET}/world"


@pytest.fixture
def storage(s3_server: S3Server, tmp_path: Path) -> StorageConfig:
    return s3_server.settings(tmp_path / "cache")


@pytest.fixture
def by_environment(storage: StorageConfig) -> Iterator[None]:
    """As verbs are told where the server is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", storage.endpoint_url)
        patch.setenv("TITAN_SPEECH_CACHE", storage.cache_dir)
        yield


def spoil(s3_server: S3Server, prefix: str, suffix: str, storage: StorageConfig) -> str:
    """Another byte in one object of a store; its path."""
    client = s3_server.client()
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/wild")["Contents"]
    key = next(found["Key"] for found in listed if found["Key"].endswith(suffix))
    data = bytearray(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(data))
    return key.removeprefix(f"{prefix}/")


def assert_same_samples(found: Store, expected: Store) -> None:
    for part, other in zip(found.parts, expected.parts, strict=True):
        np.testing.assert_array_equal(part.code_len_N, other.code_len_N)
        for i in range(part.num_samples):
            read = (part.codes, other.codes) if part.kind is Kind.SPEECH else (part.tokens, other.tokens)
            np.testing.assert_array_equal(read[0](i), read[1](i))
            for variant in part.variants:
                np.testing.assert_array_equal(part.text(i, variant), other.text(i, variant))
        assert part.row(0) == other.row(0)


def test_every_sample_is_as_in_the_folder(world: World, address: str, storage: StorageConfig) -> None:
    store, local = open_store(address, storage), open_store(world.store)
    assert store.fingerprint == local.fingerprint
    assert_same_samples(store, local)
    assert_same_samples(pickle.loads(pickle.dumps(store)), local)


def test_a_plan_reads_the_same_packs(world: World, address: str, storage: StorageConfig) -> None:
    config = world.three_tasks()
    sources = tuple(replace(source, store=address) for source in config.data.source)
    remote = replace(config, storage=storage, data=replace(config.data, source=sources))
    assert DataPlan.load(remote).fingerprint == DataPlan.load(config).fingerprint
    assert order_digest(remote, 0, 500, 1) == order_digest(config, 0, 500, 1)


@pytest.mark.usefixtures("by_environment")
def test_describe_and_verify_take_an_address(world: World, address: str) -> None:
    assert describe_store(address).splitlines()[1:] == describe_store(world.store).splitlines()[1:]
    verification = verify_store(address)
    assert verification.is_sound, str(verification)
    assert verification.num_samples == verify_store(world.store).num_samples


@pytest.mark.usefixtures("by_environment")
def test_a_damaged_object_is_named_and_never_read(
    s3_server: S3Server, world: World, storage: StorageConfig, tmp_path: Path
) -> None:
    push_store(world.store, S3Url(BUCKET, "damaged-world"), storage)
    path = spoil(s3_server, "damaged-world", ".tokens", storage)
    store = open_store(f"s3://{BUCKET}/damaged-world", storage)
    part = next(part for part in store.parts if path.startswith(part.name))
    with pytest.raises(DataError, match=f"{path} is damaged"):
        [part.codes(i) for i in range(part.num_samples)]
    assert list(Path(storage.cache_dir, "partial").iterdir()) == []
    verification = verify_store(f"s3://{BUCKET}/damaged-world")
    assert len(verification.problems) == 1
    assert path in verification.problems[0]


_KILLED_WHILE_VERIFYING = """
import os, signal, sys
from titan_speech.store.verify import stored_files
with stored_files(sys.argv[1]) as store:
    store.fetch(store.manifest().parts[0].shards[0].files)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("by_environment")
def test_what_a_killed_verify_left_is_removed_by_the_next(address: str, storage: StorageConfig) -> None:
    killed = subprocess.run((sys.executable, "-c", _KILLED_WHILE_VERIFYING, address), check=False)
    assert killed.returncode == -signal.SIGKILL
    [left] = Path(storage.cache_dir).glob("verify-*")
    assert list((left / "files").iterdir())
    with stored_files(address), stored_files(address):
        folders = list(Path(storage.cache_dir).glob("verify-*"))
        assert len(folders) == 2, "one in use was removed, or one left behind was not"
        assert left not in folders
    assert list(Path(storage.cache_dir).glob("verify-*")) == []


def test_what_is_missing_is_said_when_the_store_is_opened(
    s3_server: S3Server, world: World, storage: StorageConfig
) -> None:
    push_store(world.store, S3Url(BUCKET, "holes"), storage)
    client = s3_server.client()
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET, Prefix="holes/wild")["Contents"]]
    client.delete_object(Bucket=BUCKET, Key=keys[0])
    client.put_object(Bucket=BUCKET, Key=keys[1], Body=b"short")
    with pytest.raises(DataError, match="is incomplete") as caught:
        open_store(f"s3://{BUCKET}/holes", storage)
    assert f"{keys[0].removeprefix('holes/')} is missing" in str(caught.value)
    assert "truncated: 5 bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"s3://{BUCKET}/nothing", "no objects below this prefix"),
        ("s3://absent-bucket/world", "bucket does not exist"),
        (f"s3://{BUCKET}", "stores below it: .*world"),
        (f"s3://{BUCKET}/world/wild.en.speech", "push was cut short"),
    ],
)
@pytest.mark.usefixtures("address")
def test_a_place_without_a_store_is_said(address: str, message: str, storage: StorageConfig) -> None:
    with pytest.raises(DataError, match=message):
        open_store(address, storage)


def test_wrong_credentials_are_said_at_once(
    address: str, storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(DataError, match="credentials were refused") as caught:
        open_store(address, replace(storage, cache_dir=str(tmp_path / "other")))
    assert "not-the-secret" not in str(caught.value)


def test_no_credentials_are_said_at_once(
    address: str, storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DataError, match="no credentials found"):
        open_store(address, replace(storage, cache_dir=str(tmp_path / "other")))


def test_a_damaged_manifest_is_refused(s3_server: S3Server, world: World, storage: StorageConfig) -> None:
    push_store(world.store, S3Url(BUCKET, "edited"), storage)
    content = json.loads((world.store / "manifest.json").read_text())
    content["seed"] += 1
    s3_server.client().put_object(Bucket=BUCKET, Key="edited/manifest.json", Body=json.dumps(content).encode())
    with pytest.raises(DataError, match="never edited"):
        open_store(f"s3://{BUCKET}/edited", storage)


def test_shards_are_there_before_the_packs_that_need_them(world: World, address: str, storage: StorageConfig) -> None:
    config = world.three_tasks()
    sources = tuple(replace(source, store=address) for source in config.data.source)
    plan = DataPlan.load(replace(config, storage=storage, data=replace(config.data, source=sources)))
    ahead = look_ahead_of(plan)
    assert ahead is not None
    assert look_ahead_of(DataPlan.load(config)) is None
    needed = {file.sha256 for slot in range(6) for _, file in files_of_slot(plan, slot)}
    first = {file.sha256 for _, file in files_of_slot(plan, 0)}
    cached = Path(storage.cache_dir, "files")
    assert not any((cached / sha256).exists() for sha256 in first if sha256 not in sidecars(plan))
    prefetcher = ShardPrefetcher(plan, ([slot] for slot in count()), replace(ahead, num_packs=6))
    with closing(prefetcher):
        deadline = time.monotonic() + 30
        while not all((cached / sha256).exists() for sha256 in needed):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    before = {path.name for path in cached.iterdir()}
    assert [plan.pack(slot).num_pad_tokens >= 0 for slot in range(6)] == [True] * 6
    assert {path.name for path in cached.iterdir()} == before, "a pack had to wait for a file"


def test_packs_are_passed_over_while_every_file_is_here(
    world: World, address: str, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.three_tasks()
    sources = tuple(replace(source, store=address) for source in config.data.source)
    plan = DataPlan.load(replace(config, storage=storage, data=replace(config.data, source=sources)))
    for files, file in files_of_plan(plan):
        files.fetch([file])
    seen: list[int] = []
    monkeypatch.setattr("titan_speech.data.shard_prefetch.files_of_slot", lambda plan, slot: seen.append(slot) or [])
    monkeypatch.setattr("titan_speech.data.shard_prefetch.PACKS_PER_CHECK", 8)
    slots, first = count(), files_of_plan(plan)[0][1].sha256
    with closing(ShardPrefetcher(plan, ([slot] for slot in slots), LookAhead(8, 1 << 30))) as prefetcher:
        wait_until(lambda: prefetcher.num_walked == 8)
        assert seen == []
        Path(storage.cache_dir, "files", first).unlink()
        prefetcher.has_read(8)
        wait_until(lambda: prefetcher.num_walked == 16)
        assert seen == list(range(8, 16))


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sidecars(plan: DataPlan) -> set[str]:
    parts = {id(documents.part): documents.part for stream in plan.streams for documents in stream.documents}
    return {shard.file("parquet").sha256 for part in parts.values() for shard in part.info.shards}
