"""Small files that several machines write: created once, or replaced only where nobody else was faster.

In: a folder, or an address in object storage. Out: `SharedFolder`, with `create` and `replace` that say whether this
writer won. On disk, `create` gives a finished file its name by a hard link, which the file system grants to one alone,
on every machine that shares it. `replace` has no such call to rest on: it compares and writes under a lock (`flock`) on
the folder, so of machines that do not see each other's locks (Lustre with localflock, NFS with local_lock) two may win.
A file system without locks is refused; one without hard links creates under the lock. In object storage both are
conditional requests (If-None-Match, If-Match), which S3, R2 and compatible servers decide. A conditional request whose
answer is lost is sent again and then refused by its own first attempt, so a refusal is followed by a look at who wrote:
content must differ from writer to writer. Costs one request per call, two when refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.retry import MissingObjectError, RefusedConditionError
from titan_speech.storage.s3 import Client, client_of
from titan_speech.storage.s3_url import S3Url, is_s3
from titan_speech.utils.files import create_atomically, write_atomically
from titan_speech.utils.json_text import MAX_JSON_BYTES, read_small_file
from titan_speech.utils.locks import UNSUPPORTED, wait_for_lock
from titan_speech.utils.safe_path import path_inside, relative_path

_LOCK_NAME = ".lock"


@dataclass(frozen=True)
class VersionedFile:
    """A file as it was read."""

    content: bytes
    version: str
    """Changes whenever the file is written."""


class SharedFolder(Protocol):
    """Small files by their path from the folder."""

    def names(self, under: str) -> list[str]:
        """Names of the files directly in the folder `under`, sorted; none if there is no such folder."""
        ...

    def read(self, path: str) -> VersionedFile | None:
        """The file; None if it does not exist."""
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Write a file that is not there yet; False if another writer's file is."""
        ...

    def replace(self, path: str, content: bytes, version: str) -> bool:
        """Write a file over the one of this version; False if it was written or deleted since."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file; one that is not there is no error."""
        ...


def shared_folder(place: str | os.PathLike[str], storage: StorageConfig) -> SharedFolder:
    """The folder at a path or an s3:// address.

    Raises:
        DataError: the address cannot be used.
    """
    if is_s3(place):
        return _InObjectStorage(client_of(storage), S3Url.parse(place))
    return _OnDisk(Path(place))


@dataclass(frozen=True)
class _OnDisk:
    folder: Path

    def names(self, under: str) -> list[str]:
        folder = path_inside(self.folder, under)
        if not folder.is_dir():
            return []
        names = (path.name for path in folder.iterdir() if path.is_file())
        return sorted(name for name in names if ".tmp-" not in name and name != _LOCK_NAME)

    def read(self, path: str) -> VersionedFile | None:
        file = path_inside(self.folder, path)
        try:
            content = read_small_file(file, MAX_JSON_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        return VersionedFile(content, hashlib.sha256(content).hexdigest())

    def create(self, path: str, content: bytes) -> bool:
        with self._locked():
            return create_atomically(path_inside(self.folder, path), content)

    def replace(self, path: str, content: bytes, version: str) -> bool:
        with self._locked():
            found = self.read(path)
            if found is None or found.version != version:
                return False
            write_atomically(path_inside(self.folder, path), content)
            return True

    def delete(self, path: str) -> None:
        with self._locked():
            path_inside(self.folder, path).unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(wait_for_lock(self.folder / _LOCK_NAME))
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                raise DataError(
                    f"the file system of {self.folder} has no locks (flock: {error.strerror}), by which one of several "
                    "writers is chosen; give a folder on another one, or an s3:// address"
                ) from error
            yield


@dataclass(frozen=True)
class _InObjectStorage:
    client: Client
    url: S3Url

    def names(self, under: str) -> list[str]:
        found = self.client.list_sizes(self.url.child(relative_path(under)))
        return sorted(path for path in found if "/" not in path)

    def read(self, path: str) -> VersionedFile | None:
        try:
            content, version = self.client.read_version(self.url.child(relative_path(path)))
        except MissingObjectError:
            return None
        return VersionedFile(content, version)

    def create(self, path: str, content: bytes) -> bool:
        return self._put(path, content, {"IfNoneMatch": "*"})

    def replace(self, path: str, content: bytes, version: str) -> bool:
        return self._put(path, content, {"IfMatch": version})

    def delete(self, path: str) -> None:
        self.client.delete(self.url.child(relative_path(path)))

    def _put(self, path: str, content: bytes, condition: dict[str, str]) -> bool:
        try:
            sha256 = hashlib.sha256(content).hexdigest()
            self.client.put(self.url.child(relative_path(path)), content, sha256, condition=condition)
        except (RefusedConditionError, MissingObjectError):
            found = self.read(path)
            return found is not None and found.content == content  # an earlier attempt of this very request
        return True
