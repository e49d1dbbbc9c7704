"""Checkpoints from an address into a folder, and by hand: `checkpoint push`, `checkpoint pull`, `checkpoint list s3://`.

In: an address, a name and a folder.
Out: the checkpoint in the folder, verified file by file and with its marker, as a save would have left it. Files that
the folder has already (the shards this node wrote) are not fetched. One process per node fetches while the others wait.
Everything resumes where it was stopped: ranges of 8 MB that arrived are kept in `fetching/`. A run that uploads by
itself may be pushed too, such as after an end that could not wait.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from titan_speech.checkpoint.commit import MARKER, checkpoint_path, committed_steps, existing_text, step_name
from titan_speech.checkpoint.folders import discard, link_or_copy
from titan_speech.checkpoint.upload.job import UploadJob, claim
from titan_speech.checkpoint.upload.remote import Prefix, SentCheckpoint, newest_full, stale_objects
from titan_speech.checkpoint.upload.send import LocalCheckpoint, Sender, has_more, is_sent, local_checkpoints
from titan_speech.checkpoint.verify import verify
from titan_speech.config.schema_data import StorageConfig
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.errors import CheckpointError
from titan_speech.storage.download import RemoteFile, download_files
from titan_speech.storage.retry import RateLimiter
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.utils.files import sync_folder, write_atomically
from titan_speech.utils.locks import wait_for_lock
from titan_speech.utils.printable import joined_lines
from titan_speech.utils.progress import Progress
from titan_speech.utils.safe_path import path_inside
from titan_speech.utils.text_table import counted, size_text, table_lines

FETCHING_DIR = "fetching"
HEADER = ("name", "kind", "files", "size")


def fetch(prefix: Prefix, name: str, folder: Path) -> Path:
    """Fetch a complete checkpoint into a folder of checkpoints, unless it is there.

    Returns:
        Its folder, folder/step-N.

    Raises:
        CheckpointError: it is not complete at the address.
        DataError: the server cannot be reached, an object is damaged, or the disk is full; what arrived is kept.
    """
    sent = prefix.read(name)
    checkpoint = checkpoint_path(folder, sent.step)
    with wait_for_lock(folder / f"{FETCHING_DIR}.lock"):
        if not _is_here(checkpoint, sent):
            fetching = folder / FETCHING_DIR
            _download(prefix, sent, folder, fetching)
            discard(checkpoint)
            (fetching / checkpoint.name).replace(checkpoint)
            sync_folder(folder)
            shutil.rmtree(fetching, ignore_errors=True)
    return checkpoint


def _is_here(checkpoint: Path, sent: SentCheckpoint) -> bool:
    """Whole, and not reduced to its weights if it is full at the address."""
    found = verify(checkpoint, checksums=False)
    return found.is_sound and found.commit is not None and (found.commit.kind == "full" or sent.kind == "model")


def _download(prefix: Prefix, sent: SentCheckpoint, folder: Path, fetching: Path) -> None:
    """Download into `fetching`, the marker last; companion files go to their place in `folder` at once."""
    inside = {file.path: file for file in sent.files if file.path.startswith(f"{sent.name}/")}
    companions = [file for file in sent.files if file.path not in inside]
    marker = inside.pop(f"{sent.name}/{MARKER}", None)
    if marker is None:
        raise CheckpointError(f"{prefix.url}: the manifest of {sent.name} names no {MARKER}; take another checkpoint")
    for path in inside:
        _reuse(path_inside(folder, path), path_inside(fetching, path))
    with Progress(f"fetch {sent.name} from {prefix.url}", sent.num_bytes, "B") as progress:
        for files, target in ((companions, folder), (inside.values(), fetching), ([marker], fetching)):
            remote = {
                file.path: RemoteFile(prefix.url.child(file.path), file.num_bytes, file.sha256, file.xxh3_128)
                for file in files
            }
            download_files(prefix.client, remote, target, lambda _, num_bytes: progress.add(num_bytes))


def _reuse(ours: Path, target: Path) -> None:
    """A file this node wrote; the download compares its sha256 and fetches it if it is not the right one."""
    if ours.is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(ours, target)


def push(run: Path, folder: Path, to: str, storage: StorageConfig, step: int | None = None) -> str:
    """Send every committed checkpoint in `folder` of a run, or that of one step.

    Returns:
        A line on what was done.
    """
    job = UploadJob(run, folder, UploadConfig(to=to), storage)
    found = local_checkpoints(job.checkpoints, ("full", "model"))
    chosen = [one for one in found if step in (None, one.step)]
    if not chosen:
        of_step = "" if step is None else f" of step {step}"
        known = existing_text([one.step for one in found])
        raise CheckpointError(f"{job.checkpoints} has no complete checkpoint{of_step}; {known}")
    prefix = job.prefix()
    claim(job, prefix)
    sent = _push_all(Sender(prefix, RateLimiter(0), int(job.upload.part_mb * 1e6)), chosen)
    return f"{to}: {counted(len(sent), 'checkpoint')} sent, {len(chosen) - len(sent)} were there"


def _push_all(sender: Sender, chosen: Sequence[LocalCheckpoint]) -> list[SentCheckpoint]:
    missing = [one for one in chosen if not _is_at_address(sender.prefix, one)]
    sent = []
    with Progress(f"push to {sender.prefix.url}", sum(one.num_bytes for one in missing), "B") as progress:
        for one in missing:
            with one.lock_for_reading() as is_held:
                if not is_held:
                    raise CheckpointError(f"{one.path} was removed before it was sent; see checkpoint list")
                before = sender.revoke_other(one)
                seen = {file.path: file for file in sender.send_files(one, True, progress.add)}
                sent.append(sender.complete(one, seen, before))
    return [one for one in sent if one is not None]


def _is_at_address(prefix: Prefix, one: LocalCheckpoint) -> bool:
    """Whether it is at the address, also in full if it was reduced to its weights here."""
    there = prefix.find(one.name)
    return there is not None and (is_sent(there, one) or has_more(there, one))


def pull(address: str, run: Path, folder: Path, storage: StorageConfig, step: int | None = None) -> str:
    """Fetch one checkpoint into `folder` of a run: the newest full one, or that of a step.

    Returns:
        A line on what was done.
    """
    job = UploadJob(run, folder, UploadConfig(to=address), storage)
    prefix = job.prefix()
    name = newest_full(prefix) if step is None else step_name(step)
    if name is None:
        raise CheckpointError(f"{address}: no complete full checkpoint there; expected the upload.to of a run")
    run_id = prefix.run_id()
    if run_id is not None and not committed_steps(job.checkpoints):
        write_atomically(job.run_id_path, f"{run_id}\n")  # a folder without checkpoints becomes the run at the address
    path = fetch(prefix, name, job.checkpoints)
    return f"{path}: {prefix.read(name).num_bytes / 1e6:,.1f} MB, verified"


def list_address(address: str, storage: StorageConfig) -> str:
    """One line per checkpoint that is complete at an address, and what else is there.

    Raises:
        CheckpointError: nothing of a run is there.
        DataError: the server cannot be reached.
    """
    prefix = Prefix(client_of(storage), S3Url.parse(address))
    complete = [prefix.read(name) for name in prefix.names()]
    stale = stale_objects(prefix)
    if not complete and not stale and prefix.run_id() is None:
        raise CheckpointError(f"{address}: no checkpoints there; expected the upload.to of a run")
    rows = [(one.name, one.kind, str(len(one.files)), size_text(one.num_bytes)) for one in complete]
    lines = table_lines([HEADER, *rows]) if rows else ["no complete checkpoint"]
    lines += [f"{one.name} is suspect: {one.suspect}" for one in complete if one.suspect]
    lines += [f"not complete: {one}: being sent now, or left by an upload that was stopped" for one in stale]
    return joined_lines(lines)
