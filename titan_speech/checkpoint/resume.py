"""What a run takes from object storage at its start.

In: the configuration. Out: files in the run's own folder, or in the node's cache, so that all that follows knows only
folders. A run with upload.to whose folder has nothing newer gets the newest full checkpoint that is complete at the
address; checkpoint.initial_load_path may be an address too. Rank 0 looks and decides; then every node fetches what it
lacks of that one checkpoint: without a shared file system each needs all files, of which it wrote some.

A run that has a checkpoint of its own goes on without the network; one that has none must know what there is.

A run takes its folder: locked, tidied up, and with a start that all ranks share.

In: the configuration and the provenance of this run. Out: what the run starts from. Rank 0 locks the run folder for
as long as its process lives, finishes or removes what killed saves left, fetches what is newer in object storage, and
chooses; the others are told, and fetch what their node lacks.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path

from titan_speech.checkpoint.commit import ROLLED_BACK, checkpoint_path, committed_steps, recover
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.start import Start, choose_start
from titan_speech.checkpoint.upload.fetch import fetch
from titan_speech.checkpoint.upload.job import UploadJob, claim, is_first_of_node, node_number
from titan_speech.checkpoint.upload.local import local_checkpoint
from titan_speech.checkpoint.upload.remote import Prefix, newest_full, step_of
from titan_speech.checkpoint.upload.send import is_sent
from titan_speech.checkpoint.verify import verify
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import StorageConfig
from titan_speech.distributed.consensus import decide_on_rank_0
from titan_speech.errors import CheckpointError, ConfigError, DataError, TitanSpeechError
from titan_speech.storage.cache_folder import cache_folder
from titan_speech.storage.retry import UnreachableError
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url, is_s3
from titan_speech.utils.locks import hold_run_lock

logger = logging.getLogger(__name__)

NEWEST = -1


def with_local_start(config: SpeechConfig) -> SpeechConfig:
    """On rank 0: the same configuration, whose checkpoints are all in folders of this node.

    Raises:
        CheckpointError, DataError: what it needs is not there, or cannot be reached.
    """
    table = config.checkpoint
    if not table.enable or table.create_seed_checkpoint:
        return config
    if config.upload.to:
        _fetch_newest(config)
    if not is_s3(table.initial_load_path):
        return config
    if committed_steps(Path(config.job.dump_folder) / table.folder):
        return replace(config, checkpoint=replace(table, initial_load_path=""))  # the run's own come first
    path = local_copy(table.initial_load_path, config.storage)
    return replace(config, checkpoint=replace(table, initial_load_path=str(path)))


def on_this_node(config: SpeechConfig, start: Start) -> Start:
    """The start that rank 0 chose, whose files are in a folder of this rank's node."""
    if start.checkpoint is None or os.environ.get("RANK", "0") == "0":
        return start
    try:
        return replace(start, checkpoint=_here(config, start, start.checkpoint))
    except TitanSpeechError as error:
        if is_first_of_node():
            logger.error("%s", error)  # rank 0, which tells of what ends a run, does not know of it
        raise


def _here(config: SpeechConfig, start: Start, checkpoint: Path) -> Path:
    if start.is_resume:
        job = UploadJob.of_run(config, node_number())
        if config.upload.to and not verify(checkpoint_path(job.checkpoints, start.step), checksums=False).is_sound:
            _say(f"This node lacks files of {checkpoint.name}; they are fetched from {config.upload.to}.")
            fetch(job.prefix(), checkpoint.name, job.checkpoints)
        return checkpoint_path(job.checkpoints, start.step)
    if is_s3(config.checkpoint.initial_load_path) and not config.model.initial:
        return local_copy(config.checkpoint.initial_load_path, config.storage)
    return checkpoint


def local_copy(place: str, storage: StorageConfig) -> Path:
    """The checkpoint at s3://bucket/prefix/step-N, or the newest full one at s3://bucket/prefix, as a folder.

    It lies in the node's cache, under `checkpoints/`, until somebody deletes it.
    """
    url = S3Url.parse(place)
    above, _, last = url.key.rpartition("/")
    is_one = last.startswith("step-") and last.removeprefix("step-").isdecimal()
    prefix = Prefix(client_of(storage), S3Url(url.bucket, above) if is_one else url)
    name = last if is_one else newest_full(prefix)
    if name is None:
        raise CheckpointError(
            f"{place}: no complete full checkpoint there; expected s3://bucket/prefix/step-N, or the upload.to of a run"
        )
    key = hashlib.sha256(f"{storage.endpoint_url} {prefix.url} {prefix.read(name)}".encode()).hexdigest()[:16]
    path = fetch(prefix, name, cache_folder(storage) / "checkpoints" / key)
    _say(f"{place}: {name} is in {path}.")
    return path


def _fetch_newest(config: SpeechConfig) -> None:
    """Unless this node has it, or one that is newer."""
    job = UploadJob.of_run(config, 0)
    ours = newest_sound(job.checkpoints)
    try:
        prefix = job.prefix()
        claim(job, prefix)
        _leave_what_was_rolled_back(prefix, job.checkpoints)
        name = _wanted(prefix, config.checkpoint.load_step)
    except UnreachableError as error:
        if ours is None:
            raise DataError(
                f"{error}. This run has no checkpoint here, so it must know what there is at upload.to = "
                f"{config.upload.to!r} before it starts anew"
            ) from error
        logger.warning("%s. The run goes on with its own step %d.", error, ours)
        return
    if name is not None and (ours is None or step_of(name) > ours or config.checkpoint.load_step != NEWEST):
        if not verify(checkpoint_path(job.checkpoints, step_of(name)), checksums=False).is_sound:
            _say(f"This node lacks {name}; it is fetched from {config.upload.to}.")
        fetch(prefix, name, job.checkpoints)


def _leave_what_was_rolled_back(prefix: Prefix, folder: Path) -> None:
    """Retired here, it must not come back from there; what was saved of the same step since then is another one."""
    there = set(prefix.names())
    for path in folder.glob(f"step-*{ROLLED_BACK}"):
        name, retired = path.name.removesuffix(ROLLED_BACK), local_checkpoint(path)
        if retired is not None and name in there and is_sent(prefix.read(name), replace(retired, name=name)):
            prefix.leave(name)
            _say(f"{name} at {prefix.url} counts no more: the run was rolled back behind it.")


def _wanted(prefix: Prefix, load_step: int) -> str | None:
    """None: nothing there is of use, and the folder decides."""
    if load_step == NEWEST:
        return newest_full(prefix)
    names = prefix.names()
    newer = [name for name in names if step_of(name) > load_step]
    if newer:
        _say(
            f"{prefix.url} still has {', '.join(newer)}: a restart without checkpoint.load_step resumes from there. To "
            "stay on this branch, give it an upload.to of its own."
        )
    name = f"step-{load_step}"
    return name if name in names else None


def newest_sound(folder: Path) -> int | None:
    """Newest full step that has all its files at their sizes."""
    for step in reversed(committed_steps(folder)):
        found = verify(checkpoint_path(folder, step), checksums=False)
        if found.is_sound and found.commit is not None and found.commit.kind == "full":
            return step
    return None


def _say(text: str) -> None:
    """Once a node."""
    if is_first_of_node():
        logger.warning("%s", text)


def open_checkpoints(config: SpeechConfig, provenance: Provenance) -> Start:
    """The start of the run.

    Raises:
        CheckpointError: another job holds the folder, or what is asked for cannot be started from.
        DataError: object storage cannot be reached, and is needed.
        ConfigError: the run folder cannot be written.
    """
    run_folder = Path(config.job.dump_folder)
    folder = run_folder / config.checkpoint.folder

    def decide() -> Start:
        _lock(run_folder)
        _tidy(folder)
        return choose_start(with_local_start(config).checkpoint, folder, provenance)

    start = decide_on_rank_0("start", decide)
    if os.environ["LOCAL_RANK"] == "0" and os.environ["RANK"] != "0":
        _tidy(folder)  # a node with disks of its own; on a shared one nothing is left to do
    return on_this_node(config, start)


def _lock(run_folder: Path) -> None:
    try:
        hold_run_lock(run_folder)
    except OSError as error:
        raise ConfigError(
            f"job.dump_folder = {str(run_folder)!r} cannot be written: {error}; give a folder this user can write to"
        ) from error


def _tidy(folder: Path) -> None:
    for done in recover(folder):
        logger.warning(f"{folder}: {done}.")
