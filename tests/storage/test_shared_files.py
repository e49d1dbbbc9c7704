"""Of several writers one wins, on disk and in object storage, whatever the network does to the answers."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier

import pytest

from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage import retry
from titan_speech.storage.shared_files import SharedFolder, shared_folder
from titan_speech.utils import files
from titan_speech.utils.safe_path import UnsafePathError


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(retry, "FIRST_WAIT_SEC", 0.02)
    with fault_proxy(s3_server.port) as running:
        yield running


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server, proxy: FaultProxy) -> SharedFolder:
    if request.param == "disk":
        return shared_folder(tmp_path / "shared", StorageConfig())
    settings = s3_server.settings(tmp_path / "cache", proxy.port, num_connections=8)
    return shared_folder(f"s3://{BUCKET}/shared/{tmp_path.name}", settings)


def test_a_file_is_created_once_and_replaced_at_its_version_only(folder: SharedFolder) -> None:
    assert folder.read("claims/a.json") is None
    assert folder.names("claims") == []
    assert folder.create("claims/a.json", b"first")
    assert not folder.create("claims/a.json", b"second")
    first = folder.read("claims/a.json")
    assert first is not None
    assert first.content == b"first"
    assert folder.replace("claims/a.json", b"third", first.version)
    assert not folder.replace("claims/a.json", b"fourth", first.version)
    assert folder.names("claims") == ["a.json"]
    folder.delete("claims/a.json")
    folder.delete("claims/a.json")
    assert not folder.replace("claims/a.json", b"fifth", first.version)
    assert folder.read("claims/a.json") is None


def test_one_creates_where_nobody_sees_the_locks_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a shared file system whose locks are local to a machine: all look before any writes."""
    monkeypatch.setattr("titan_speech.storage.shared_files.wait_for_lock", lambda path: nullcontext())
    both = Barrier(8)
    real = files.create_without_link

    def after_all_have_looked(path: Path) -> int:
        both.wait(60)
        return real(path)

    monkeypatch.setattr(files, "create_without_link", after_all_have_looked)
    folder = shared_folder(tmp_path, StorageConfig())
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: folder.create("a.json", f"writer {number}".encode()), range(8)))
    assert sum(won) == 1
    found = folder.read("a.json")
    assert found is not None
    assert found.content == f"writer {won.index(True)}".encode()
    assert len(list(tmp_path.iterdir())) == 1, "nothing is left of the others"


def test_a_file_system_without_hard_links_creates_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(files.os, "link", refuse)
    folder = shared_folder(tmp_path, StorageConfig())
    assert folder.create("a.json", b"one")
    assert not folder.create("a.json", b"two")


def test_one_of_many_writers_wins(folder: SharedFolder) -> None:
    def create(number: int) -> bool:
        return folder.create("claims/a.json", f"writer {number}".encode())

    def replace(number: int) -> bool:
        assert found is not None
        return folder.replace("claims/a.json", f"successor {number}".encode(), found.version)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
        found = folder.read("claims/a.json")
        replaced = list(pool.map(replace, range(8)))
    assert sum(won) == sum(replaced) == 1
    assert found is not None
    assert found.content == f"writer {won.index(True)}".encode()
    last = folder.read("claims/a.json")
    assert last is not None
    assert last.content == f"successor {replaced.index(True)}".encode()


@pytest.mark.parametrize("fault", ["num_reset", "num_busy", "num_dropped"])
def test_a_write_whose_answer_is_lost_is_known_as_ones_own(
    s3_server: S3Server, proxy: FaultProxy, tmp_path: Path, fault: str
) -> None:
    folder = shared_folder(f"s3://{BUCKET}/lost/{tmp_path.name}", s3_server.settings(tmp_path, proxy.port))
    setattr(proxy, fault, 1)
    assert folder.create("a.json", b"mine")
    found = folder.read("a.json")
    assert found is not None
    setattr(proxy, fault, 1)
    assert folder.replace("a.json", b"mine, again", found.version)
    assert not folder.create("a.json", b"another's")


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("titan_speech.utils.locks.fcntl.flock", flock)
    folder = shared_folder(tmp_path, StorageConfig())
    with pytest.raises(DataError, match=r"has no locks \(flock: Function not implemented\)"):
        folder.create("a.json", b"")
    assert folder.read("a.json") is None


def test_paths_and_sizes_are_checked(folder: SharedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("../a", "/a", "a/../../b"):
        with pytest.raises(UnsafePathError):
            folder.create(path, b"")
    monkeypatch.setattr("titan_speech.storage.shared_files.MAX_JSON_BYTES", 3)
    monkeypatch.setattr("titan_speech.storage.s3.MAX_JSON_BYTES", 3)
    folder.create("large", b"four")
    with pytest.raises(DataError, match="more than 3 bytes"):
        folder.read("large")
