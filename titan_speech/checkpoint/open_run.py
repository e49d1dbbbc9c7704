"""Open the run folder on all ranks and nodes: lock it, tidy up, fetch what is newer, choose, share.

In: the configuration and the provenance of this run.
Out: a `Start` that all ranks share, whose files are in folders of each node. Rank 0 locks the run folder for as long as
its process lives, finishes or removes what killed saves left, fetches what is newer in object storage, and chooses;
then every node fetches what it lacks of that one checkpoint: without a shared file system each node needs all files, of
which it wrote some.

A run with `upload.to` whose folder has nothing newer gets the newest full checkpoint that is complete at the address;
checkpoint.initial_load_path may be an address too. A run that has a checkpoint of its own starts without the network;
one that has none must know what is at the address.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from titan_speech.checkpoint.choose_start import FRESH, Start, choose_start
from titan_speech.checkpoint.commit import checkpoint_path, committed_steps, step_from_name, step_name
from titan_speech.checkpoint.folders import ROLLED_BACK, recover
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.upload.job import UploadJob, claim
from titan_speech.checkpoint.upload.remote import Prefix, newest_full, step_of
from titan_speech.checkpoint.upload.send import is_sent, local_checkpoint
from titan_speech.checkpoint.upload.transfer import fetch
from titan_speech.checkpoint.verify import verify
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import StorageConfig
from titan_speech.distributed.consensus import StartupConsensus
from titan_speech.distributed.environment import dist_env
from titan_speech.errors import CheckpointError, ConfigError, DataError, TitanSpeechError
from titan_speech.storage.cache_folder import cache_folder
from titan_speech.storage.retry import UnreachableError
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url, is_s3
from titan_speech.utils.locks import RunLock

logger = logging.getLogger(__name__)


def open_checkpoints(
    config: SpeechConfig, provenance: Provenance, consensus: StartupConsensus, held: ExitStack
) -> Start:
    """Lock the run folder and choose what the run starts from; every rank calls this.

    Args:
        held: keeps the lock of the run folder on rank 0 until it is closed.

    Raises:
        CheckpointError: another job holds the folder, or there is no sound checkpoint where one is expected.
        DataError: object storage cannot be reached, and is needed.
        ConfigError: the run folder cannot be written.
    """
    run_folder = Path(config.job.dump_folder)
    folder = run_folder / config.checkpoint.folder

    def decide() -> Start:
        try:
            held.enter_context(RunLock.take(run_folder))
        except OSError as error:
            raise ConfigError(
                f"job.dump_folder = {str(run_folder)!r} cannot be written: {error}; give a folder this user can write "
                "to"
            ) from error
        _tidy(folder)
        return choose_start(with_local_start(config).checkpoint, folder, provenance)

    start = consensus.decide_on_rank_0("start", decide, Start)
    if dist_env().is_first_of_node and not dist_env().is_first:
        _tidy(folder)  # a node with disks of its own; on a shared one nothing is left to do
    return on_this_node(config, start)


def _tidy(folder: Path) -> None:
    for done in recover(folder):
        logger.warning(f"{folder}: {done}.")


def with_local_start(config: SpeechConfig) -> SpeechConfig:
    """On rank 0: the same configuration, whose checkpoints are all in folders of this node.

    Raises:
        CheckpointError, DataError: a checkpoint that is needed does not exist, or cannot be reached.
    """
    settings = config.checkpoint
    if not settings.enable or settings.create_seed_checkpoint:
        return config
    if config.upload.to:
        _fetch_newest(config)
    if not is_s3(settings.initial_load_path):
        return config
    if committed_steps(Path(config.job.dump_folder) / settings.folder):
        return replace(config, checkpoint=replace(settings, initial_load_path=""))  # the run's own come first
    path = local_copy(settings.initial_load_path, config.storage)
    return replace(config, checkpoint=replace(settings, initial_load_path=str(path)))


def on_this_node(config: SpeechConfig, start: Start) -> Start:
    """The start that rank 0 chose, with its files in a folder of this rank's node."""
    if start.checkpoint is None or dist_env().is_first:
        return start
    try:
        return replace(start, checkpoint=_fetched_here(config, start, start.checkpoint))
    except TitanSpeechError as error:
        if dist_env().is_first_of_node:
            logger.error("%s", error)  # rank 0, which reports what ends a run, does not know of it
        raise


def _fetched_here(config: SpeechConfig, start: Start, checkpoint: Path) -> Path:
    if start.is_resume:
        job = UploadJob.of_run(config, dist_env().node)
        path = checkpoint_path(job.checkpoints, start.step)
        if config.upload.to and not verify(path, checksums=False).is_sound:
            _warn_once_per_node(f"This node lacks files of {path.name}; they are fetched from {config.upload.to}.")
            fetch(job.prefix(), path.name, job.checkpoints)
        return path
    if is_s3(config.checkpoint.initial_load_path) and not config.model.initial:
        return local_copy(config.checkpoint.initial_load_path, config.storage)
    return checkpoint


def local_copy(address: str, storage: StorageConfig) -> Path:
    """Fetch the checkpoint at s3://bucket/prefix/step-N, or the newest full one at s3://bucket/prefix.

    Returns:
        Its folder in the node's cache, under `checkpoints/`, where it stays until somebody deletes it.
    """
    url = S3Url.parse(address)
    above, _, last = url.key.rpartition("/")
    is_one = step_from_name(last) is not None
    prefix = Prefix(client_of(storage), S3Url(url.bucket, above) if is_one else url)
    name = last if is_one else newest_full(prefix)
    if name is None:
        raise CheckpointError(
            f"{address}: no complete full checkpoint there; expected s3://bucket/prefix/step-N, or the upload.to of a "
            "run"
        )
    key = hashlib.sha256(f"{storage.endpoint_url} {prefix.url} {prefix.read(name)}".encode()).hexdigest()[:16]
    path = fetch(prefix, name, cache_folder(storage) / "checkpoints" / key)
    _warn_once_per_node(f"{address}: {name} is in {path}.")
    return path


def _fetch_newest(config: SpeechConfig) -> None:
    """Fetch the checkpoint to resume from, unless this node has it or a newer one."""
    job = UploadJob.of_run(config, 0)
    ours = _newest_full_step(job.checkpoints)
    try:
        prefix = job.prefix()
        claim(job, prefix)
        _retire_rolled_back(prefix, job.checkpoints)
        name = _name_to_fetch(prefix, config.checkpoint.load_step)
    except UnreachableError as error:
        if ours is None:
            raise DataError(
                f"{error}. This run has no checkpoint here, so it must know what there is at upload.to = "
                f"{config.upload.to!r} before it starts from scratch"
            ) from error
        logger.warning("%s. The run resumes from its own step %d.", error, ours)
        return
    if name is not None and (ours is None or step_of(name) > ours or config.checkpoint.load_step != FRESH):
        if not verify(checkpoint_path(job.checkpoints, step_of(name)), checksums=False).is_sound:
            _warn_once_per_node(f"This node lacks {name}; it is fetched from {config.upload.to}.")
        fetch(prefix, name, job.checkpoints)


def _retire_rolled_back(prefix: Prefix, folder: Path) -> None:
    """Checkpoints that a rollback retired here must not come back from the address.

    A checkpoint of the same step that was saved since then is another one, and stays.
    """
    names = set(prefix.names())
    for path in folder.glob(f"step-*{ROLLED_BACK}"):
        name, retired = path.name.removesuffix(ROLLED_BACK), local_checkpoint(path)
        if retired is not None and name in names and is_sent(prefix.read(name), replace(retired, name=name)):
            prefix.retire(name)
            _warn_once_per_node(
                f"{name} at {prefix.url} is no longer listed as complete: the run was rolled back to an earlier step."
            )


def _name_to_fetch(prefix: Prefix, load_step: int) -> str | None:
    """None: nothing at the address is of use, and the folder decides."""
    if load_step == FRESH:
        return newest_full(prefix)
    names = prefix.names()
    newer = [name for name in names if step_of(name) > load_step]
    if newer:
        _warn_once_per_node(
            f"{prefix.url} still has {', '.join(newer)}: a restart without checkpoint.load_step resumes from there. To "
            "stay on this branch, give it an upload.to of its own."
        )
    return step_name(load_step) if step_name(load_step) in names else None


def _newest_full_step(folder: Path) -> int | None:
    """Newest full step that has all its files at their sizes and is not suspect."""
    for step in reversed(committed_steps(folder)):
        found = verify(checkpoint_path(folder, step), checksums=False)
        commit = found.commit
        if found.is_sound and commit is not None and commit.kind == "full" and not commit.suspect:
            return step
    return None


def _warn_once_per_node(text: str) -> None:
    if dist_env().is_first_of_node:
        logger.warning("%s", text)
