"""A build whose output is object storage: made in a local folder, then sent, manifest last.

In: a request and an address. Out: the store at s3://, and nothing left here. The bucket is looked into before the build
begins, so that wrong credentials do not show hours later; a build or a push that was killed goes on where it stopped
when the same command is run again. The local folder needs room for the store and its spills.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from titan_speech.config.tables import StorageTable
from titan_speech.corpus.build.run import BuildRequest, build_store
from titan_speech.errors import DataError
from titan_speech.remote.client import client_of
from titan_speech.remote.store_copy import push_store
from titan_speech.remote.url import S3Url
from titan_speech.store.manifest import MANIFEST_NAME, Manifest


def build_to_s3(request: BuildRequest, url: S3Url, work_dir: Path, settings: StorageTable) -> Manifest:
    """`request.output` is not looked at."""
    folder = work_dir / f"{url.name}.building"
    there = client_of(settings).list_sizes(url)
    if MANIFEST_NAME in there and not folder.exists():
        raise DataError(f"{url} holds a store already and a store is never changed: choose another prefix")
    manifest = build_store(replace(request, output=folder / "finished", folder=folder))
    push_store(folder / "finished", url, settings)
    shutil.rmtree(folder)
    return manifest
