"""Token stores to object storage and back: `store push` and `store pull`.

In: a folder and an address, or the other way round. Out: the same store at the other end, whole, or not openable.
Every file is compared with the manifest's sha256 on the way, in both directions. A push or pull that was killed is
continued by the next one. Files that the manifest does not list are transferred too: gold.json, which makes a store a
held-out set, the records build_report.json and pairs.json, and the scores of its samples (score_columns.py); their
sha256 is the one their object was sent with. A later push adds columns of scores; one whose values differ is refused.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.storage.download import download_files
from titan_speech.storage.retry import MissingObjectError
from titan_speech.storage.s3 import Client, DamagedObjectError, client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.storage.upload import upload_folder
from titan_speech.store.files import LocalFiles
from titan_speech.store.held_out_set import HELD_OUT_NAME
from titan_speech.store.manifest import MANIFEST_NAME, Manifest
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.store.reader import Store
from titan_speech.store.remote_files import read_remote_manifest, remote_file
from titan_speech.store.score_columns import SCORES_DIR, read_scores, score_file, scores_in
from titan_speech.utils.files import write_atomically
from titan_speech.utils.progress import Progress
from titan_speech.utils.text_table import counted

RECORD_NAMES = (HELD_OUT_NAME, "build_report.json", "pairs.json")


def push_store(folder: Path, url: S3Url, settings: StorageConfig | None = None) -> str:
    """Sends a store.

    Returns:
        A line that says what was sent.

    Raises:
        DataError: another store is at the address, a file is missing or damaged, or the server cannot be reached.
    """
    client = client_of(settings or StorageConfig())
    manifest = read_manifest(folder)
    _refuse_other_store(client, url, manifest)
    _refuse_other_held_out_set(client, url, folder)
    _refuse_other_scores(client, url, folder, manifest)
    unlisted = [name for name in _unlisted_names(manifest) if (folder / name).is_file()]
    sha256s = {file.path: file.sha256 for file in manifest.files}
    paths = [*sha256s, *unlisted, MANIFEST_NAME]
    num_bytes = sum((folder / path).stat().st_size for path in paths if (folder / path).is_file())
    with Progress(f"push {folder} to {url}", num_bytes, "B") as progress:
        done = upload_folder(
            client, folder, url, paths=paths, sha256s=sha256s, report=lambda file: progress.add(file.num_bytes)
        )
    num_sent = sum(not file.existed for file in done)
    return f"{url}: {counted(len(done), 'file')}, {num_sent} sent, {len(done) - num_sent} were there"


def pull_store(url: S3Url, folder: Path, settings: StorageConfig | None = None) -> str:
    """Fetches a store into a new folder.

    Returns:
        A line that says what was fetched.

    Raises:
        DataError: the folder exists, there is no store at the address, an object is damaged, or the server cannot be
            reached; what came is kept in `<folder>.pull` for the next attempt.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already and a store is never changed: choose another path or delete it")
    client = client_of(settings or StorageConfig())
    manifest = read_remote_manifest(client, url)
    files = {file.path: remote_file(url, file) for file in manifest.files}
    num_bytes = sum(file.num_bytes for file in files.values())
    unfinished = folder.with_name(f"{folder.name}.pull")
    with Progress(f"pull {url} to {folder}", num_bytes, "B") as progress:
        download_files(client, files, unfinished, lambda _, num_bytes: progress.add(num_bytes))
    existing = client.list_sizes(url)
    unlisted = [name for name in _unlisted_names(manifest) if name in existing]
    for name in (*unlisted, MANIFEST_NAME):
        (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(unfinished / name, _unlisted(client, url.child(name)))
    if read_manifest(unfinished).fingerprint != manifest.fingerprint:
        raise DataError(f"{url} was replaced while it was pulled; pull it again")
    os.rename(unfinished, folder)
    return f"{folder}: {counted(len(files) + len(unlisted) + 1, 'file')}, fingerprint {manifest.fingerprint}"


def _unlisted_names(manifest: Manifest) -> list[str]:
    return [*RECORD_NAMES, *(score_file(part.folder) for part in manifest.parts)]


def _unlisted(client: Client, url: S3Url) -> bytes:
    try:
        return client.read(url)
    except DamagedObjectError as error:
        raise DataError(f"{error}; push the store again") from error


def _refuse_other_store(client: Client, url: S3Url, manifest: Manifest) -> None:
    """Runs may be reading the store at the address."""
    try:
        stored = read_remote_manifest(client, url)
    except DataError as error:
        if isinstance(error.__cause__, MissingObjectError):
            return
        raise
    if stored.fingerprint != manifest.fingerprint:
        raise DataError(
            f"{url} holds another store already ({stored.name}, fingerprint {stored.fingerprint}) and a store is never "
            "changed: choose another prefix"
        )


def _refuse_other_held_out_set(client: Client, url: S3Url, folder: Path) -> None:
    """Runs hold out the samples it names; the same chosen samples may hold out other related ones."""
    if not (folder / HELD_OUT_NAME).is_file():
        return
    try:
        stored = client.read(url.child(HELD_OUT_NAME))
    except MissingObjectError:
        return
    if stored != (folder / HELD_OUT_NAME).read_bytes():
        raise DataError(
            f"{url} holds another {HELD_OUT_NAME} already and a held-out set is never changed: choose another prefix"
        )


def _refuse_other_scores(client: Client, url: S3Url, folder: Path, manifest: Manifest) -> None:
    """Runs that are reading the store may exclude samples by them."""
    existing = client.list_sizes(url.child(SCORES_DIR))
    for part in Store(LocalFiles(folder), manifest).parts:
        if f"{part.name}.parquet" not in existing:
            continue
        mine, name = read_scores(part), score_file(part.name)
        theirs = scores_in(client.read(url.child(name)), part, str(url.child(name)))
        changed = [
            one
            for one, values_N in theirs.items()
            if one not in mine or not np.array_equal(mine[one], values_N, equal_nan=True)
        ]
        if changed:
            raise DataError(
                f"{url.child(name)} has other scores already ({', '.join(changed)}), and those that runs may read "
                "are never changed: choose another prefix, or pull the store and score it further"
            )
