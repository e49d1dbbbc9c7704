"""Where a run that is killed uploads to: a SeaweedFS server on loopback, asked what counts there.

In: an empty folder for the server's data. Out: settings of a run, what its uploader is sending now, and the names of
checkpoints that are complete at the address, each of them fetched and verified.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.s3_server import BUCKET, S3Server, credentials, running_server
from titan_speech.checkpoint.upload.fetch import fetch
from titan_speech.checkpoint.upload.remote import Prefix, newest_full
from titan_speech.checkpoint.upload.status import read_status, status_path
from titan_speech.checkpoint.verify import verify
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url

TO = f"s3://{BUCKET}/killed"
MAX_VOLUMES = 400
"""Of 64 MB: what a run of some hundred steps ever sends."""


@dataclass(frozen=True)
class UploadPlace:
    """The address of the run."""

    server: S3Server
    folder: Path
    """For what is fetched."""

    @property
    def settings(self) -> tuple[str, ...]:
        """At 20 MB/s a checkpoint of 80 MB is on its way for four seconds, in parts of 5.3 MB."""
        return (
            *("--upload.to", TO, "--storage.endpoint_url", self.server.endpoint_url),
            *("--upload.bandwidth_mb_per_sec", "20", "--upload.part_mb", "5.3"),
        )

    def on_its_way(self, run: Path, since_unix_sec: float) -> str:
        """What is being sent, if the uploader's word is not of a life before."""
        path = status_path(run)
        status = read_status(path)
        if status is None or not status.sending or path.stat().st_mtime < since_unix_sec:
            return ""
        return f"{status.sending}, {status.sent_bytes / 1e6:.1f} MB" if status.sent_bytes else ""

    def newest_that_counts(self) -> str:
        name = newest_full(self._prefix())
        return "" if name is None else self._sound(name)

    def all_that_counts(self) -> list[str]:
        return [self._sound(name) for name in self._prefix().names()]

    def _prefix(self) -> Prefix:
        return Prefix(client_of(self.server.settings(Path("unused"))), S3Url.parse(TO))

    def _sound(self, name: str) -> str:
        """Its name, when every byte of it came and is what its marker says."""
        back = self.folder / "back"
        found = verify(fetch(self._prefix(), name, back), checksums=True)
        if not found.is_sound:
            raise SystemExit(f"{name} counts at {TO} and is not sound: {found.problems}")
        shutil.rmtree(back)
        return name


@contextmanager
def upload_place(folder: Path) -> Iterator[UploadPlace]:
    """With the server's credentials in the environment, which the runs inherit."""
    with running_server(folder / "weed", max_volumes=MAX_VOLUMES) as server:
        os.environ |= credentials()
        yield UploadPlace(server, folder)
