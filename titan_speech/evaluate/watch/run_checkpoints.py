"""The complete checkpoints of a run, in its folder or where it uploads them.

In: a run folder, or the s3:// address of its checkpoints. Out: step and fingerprint of each complete checkpoint, from
its marker alone, and one of them opened for export. Only the marker says what is complete, as everywhere. While a
checkpoint of a folder is read it is locked for reading, so retention removes another one instead; nobody waits. A
checkpoint at an address is fetched into a temporary folder, whose config.toml is the one its provenance recorded, but
for the settings of object storage: which server gets the credentials, and where caches are, the user says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from titan_speech.checkpoint.commit import (
    MARKER,
    Commit,
    commit_from_json,
    committed_checkpoints,
    step_from_name,
    step_name,
)
from titan_speech.checkpoint.inspect import run_dir
from titan_speech.checkpoint.lora_base import fingerprint_of_weights, weights_fingerprint
from titan_speech.checkpoint.provenance import read_provenance
from titan_speech.checkpoint.upload.remote import Prefix
from titan_speech.checkpoint.upload.transfer import fetch
from titan_speech.config.resolved import RESOLVED_NAME
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import CheckpointError
from titan_speech.hf.export import WeightsCheckpoint
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url, is_s3
from titan_speech.utils.files import write_atomically


@dataclass(frozen=True)
class RunCheckpoint:
    """A complete checkpoint of a run."""

    step: int
    fingerprint: str
    """Of its weights: a run that went back reaches a step twice, with other weights."""


class RunCheckpoints(Protocol):
    """The checkpoints of one run."""

    def complete(self) -> list[RunCheckpoint]:
        """Those that are complete now, by rising step; one with a damaged marker is left out.

        Raises:
            DataError: the server cannot be reached.
        """
        ...

    def opened(self, checkpoint: RunCheckpoint) -> AbstractContextManager[WeightsCheckpoint]:
        """Open one for export, until the block ends.

        Raises:
            CheckpointError: it was removed, or is another one than was listed.
        """
        ...


def run_checkpoints(place: str, storage: StorageConfig) -> RunCheckpoints:
    """The checkpoints of a run.

    Args:
        place: a run folder, or the `upload.to` of a run.
        storage: how object storage is reached.

    Raises:
        CheckpointError: there is no run.
    """
    if is_s3(place):
        prefix = Prefix(client_of(storage), S3Url.parse(place))
        if prefix.run_id() is None and not prefix.names():
            raise CheckpointError(f"{place}: no checkpoints there; expected the upload.to of a run")
        return _AtAddress(prefix, storage)
    if not (Path(place) / RESOLVED_NAME).is_file():
        raise CheckpointError(f"{place} is not a run folder: it has no {RESOLVED_NAME}; give the run's job.dump_folder")
    return _InFolder(Path(place))


@dataclass
class _InFolder:
    run: Path
    _fingerprints: dict[tuple[int, int], str] = field(default_factory=dict)
    """By step and time of the marker: a marker is read once."""

    def complete(self) -> list[RunCheckpoint]:
        found = []
        for one in committed_checkpoints(run_dir(self.run).folder):
            try:
                key = one.step, (one.path / MARKER).stat().st_mtime_ns
                if key not in self._fingerprints:
                    self._fingerprints[key] = weights_fingerprint(one.path)
            except (OSError, CheckpointError):  # removed meanwhile, or damaged: `checkpoint verify` names it
                continue
            found.append(RunCheckpoint(one.step, self._fingerprints[key]))
        return found

    @contextmanager
    def opened(self, checkpoint: RunCheckpoint) -> Iterator[WeightsCheckpoint]:
        path = run_dir(self.run).folder / step_name(checkpoint.step)
        opened = WeightsCheckpoint.open(path)
        with opened.kept():
            _check(checkpoint, weights_fingerprint(path), str(path))
            yield opened


@dataclass
class _AtAddress:
    prefix: Prefix
    storage: StorageConfig
    """Of this machine's user, which an export uses: a checkpoint of somebody else chooses no server and no cache."""
    _fingerprints: dict[str, str] = field(default_factory=dict)
    """By the sha256 of the marker."""

    def complete(self) -> list[RunCheckpoint]:
        found = []
        for name in self.prefix.names():
            step, sent = step_from_name(name), self.prefix.find(name)
            marker = next((file for file in sent.files if file.path == f"{name}/{MARKER}"), None) if sent else None
            if step is None or marker is None:  # an export, or removed meanwhile
                continue
            if marker.sha256 not in self._fingerprints:
                try:
                    commit = self.prefix.client.read(self.prefix.url.child(marker.path), _commit)
                except CheckpointError:
                    continue
                self._fingerprints[marker.sha256] = fingerprint_of_weights(commit.files)
            found.append(RunCheckpoint(step, self._fingerprints[marker.sha256]))
        return found

    @contextmanager
    def opened(self, checkpoint: RunCheckpoint) -> Iterator[WeightsCheckpoint]:
        with tempfile.TemporaryDirectory(prefix="titan-speech-") as temporary:
            run = Path(temporary)
            path = fetch(self.prefix, step_name(checkpoint.step), run / "checkpoint")
            _check(checkpoint, weights_fingerprint(path), f"{self.prefix.url}/{path.name}")
            provenance = read_provenance(path)
            if provenance is None or not provenance.config:
                raise CheckpointError(
                    f"{self.prefix.url}/{path.name} has no record of its configuration, which its export needs; pull "
                    "it next to the config.toml of its run, and evaluate that folder"
                )
            write_atomically(run / RESOLVED_NAME, provenance.config)
            opened = WeightsCheckpoint.open(path)
            yield replace(opened, config=replace(opened.config, storage=self.storage))


def _commit(content: bytes) -> Commit:
    try:
        return commit_from_json(content.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"a marker is damaged ({error!r})") from error


def _check(checkpoint: RunCheckpoint, found: str, where: str) -> None:
    if found != checkpoint.fingerprint:
        raise CheckpointError(f"{where} is another checkpoint than was listed: the run went back and reached it again")
