"""Token stores to object storage and back: `store push` and `store pull`.

In: a folder and an address, or the other way round. Out: the same store at the other end, whole or not to be opened.
Every file is compared with the manifest's sha256 on the way, in both directions. A push or pull that was killed goes on
where it stopped. Notes that the manifest does not list go along: gold.json, which makes a store a gold pack, and
build_report.json; their sha256 is the one their object was sent with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.download import RemoteFile, download_files
from titan_speech.storage.retry import MissingObjectError
from titan_speech.storage.s3 import Client, client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.storage.upload import upload_folder
from titan_speech.store.held_out_set import HELD_OUT_NAME
from titan_speech.store.manifest import MANIFEST_NAME, FileInfo, Manifest, read_manifest
from titan_speech.store.remote_files import read_remote_manifest
from titan_speech.utils.progress import Progress

NOTES = (HELD_OUT_NAME, "build_report.json")


def push_store(folder: Path, url: S3Url, settings: StorageConfig | None = None) -> str:
    """Sends a store; what was done, in a line."""
    client = client_of(settings or StorageConfig())
    manifest = read_manifest(folder)
    _refuse_another(client, url, manifest)
    _refuse_another_gold(client, url, folder)
    files = list(files_of(manifest))
    notes = [name for name in NOTES if (folder / name).is_file()]
    sha256s = {file.path: file.sha256 for file in files}
    paths = [*sha256s, *notes, MANIFEST_NAME]
    num_bytes = sum((folder / path).stat().st_size for path in paths if (folder / path).is_file())
    with Progress(f"push {folder} to {url}", num_bytes, "MB", 1e6) as progress:
        done = upload_folder(
            client, folder, url, paths=paths, sha256s=sha256s, report=lambda file: progress.add(file.num_bytes)
        )
    num_sent = sum(not file.existed for file in done)
    return f"{url}: {len(done)} files, {num_sent} sent, {len(done) - num_sent} were there"


def pull_store(url: S3Url, folder: Path, settings: StorageConfig | None = None) -> str:
    """Fetches a store into a folder that is not there yet; what was done, in a line."""
    if folder.exists():
        raise DataError(f"{folder} exists already and a store is never changed: choose another path or delete it")
    client = client_of(settings or StorageConfig())
    manifest = read_remote_manifest(client, url)
    files = {
        file.path: RemoteFile(url.child(file.path), file.num_bytes, file.sha256, file.xxh3_128)
        for file in files_of(manifest)
    }
    num_bytes = sum(file.num_bytes for file in files.values())
    unfinished = folder.with_name(f"{folder.name}.pull")
    with Progress(f"pull {url} to {folder}", num_bytes, "MB", 1e6) as progress:
        download_files(client, files, unfinished, lambda _, num_bytes: progress.add(num_bytes))
    notes = [name for name in NOTES if name in client.list_sizes(url)]
    for name in (*notes, MANIFEST_NAME):
        _pull_note(client, url.child(name), unfinished / name)
    if read_manifest(unfinished).fingerprint != manifest.fingerprint:
        raise DataError(f"{url} was replaced while it was pulled; pull it again")
    os.rename(unfinished, folder)
    return f"{folder}: {len(files) + len(notes) + 1} files, fingerprint {manifest.fingerprint}"


def files_of(manifest: Manifest) -> Iterator[FileInfo]:
    """Every file but the manifest."""
    return (file for part in manifest.parts for shard in part.shards for file in shard.files)


def _refuse_another(client: Client, url: S3Url, manifest: Manifest) -> None:
    """Runs may be reading the store that is there."""
    try:
        there = read_remote_manifest(client, url)
    except DataError as error:
        if isinstance(error.__cause__, MissingObjectError):
            return
        raise
    if there.fingerprint != manifest.fingerprint:
        raise DataError(
            f"{url} holds another store already ({there.name}, fingerprint {there.fingerprint}) and a store is never "
            "changed: choose another prefix"
        )


def _refuse_another_gold(client: Client, url: S3Url, folder: Path) -> None:
    """Runs hold out what it names; one store may have been chosen with different relatives."""
    if not (folder / HELD_OUT_NAME).is_file():
        return
    try:
        there = client.read(url.child(HELD_OUT_NAME))
    except MissingObjectError:
        return
    if there != (folder / HELD_OUT_NAME).read_bytes():
        raise DataError(
            f"{url} holds another {HELD_OUT_NAME} already and a gold pack is never changed: choose another prefix"
        )


def _pull_note(client: Client, url: S3Url, path: Path) -> None:
    data, expected = client.read(url), client.stored_sha256(url)
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise DataError(f"{url} is damaged: its sha256 is not {expected[:16]}...; push the store again")
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
