"""Checkpoints sent and fetched by hand: `checkpoint push` and `checkpoint pull`.

In: a run folder and an address. Out: the same checkpoints at the other end, whole or not counted; what was done, in a
line. Both go on where they were stopped. A run that uploads may be pushed too, such as after an end that could not
wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from titan_speech.checkpoint.commit import committed_steps, write_durably
from titan_speech.checkpoint.upload.fetch import fetch
from titan_speech.checkpoint.upload.job import RUN_ID, UploadJob, claim
from titan_speech.checkpoint.upload.local import LocalCheckpoint, local_checkpoints
from titan_speech.checkpoint.upload.remote import Prefix, SentCheckpoint, newest_full
from titan_speech.checkpoint.upload.send import Sender, has_more, is_sent
from titan_speech.checkpoint.upload.status import STATUS_DIR
from titan_speech.config.schema_data import StorageConfig
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.errors import CheckpointError
from titan_speech.storage.retry import RateLimiter
from titan_speech.utils.progress import Progress


def push(run: Path, folder: Path, to: str, storage: StorageConfig, step: int | None = None) -> str:
    """Every committed checkpoint in `folder` of the run, or that of one step."""
    job = UploadJob(run, folder, UploadConfig(to=to), storage)
    found = local_checkpoints(job.checkpoints, ("full", "model"))
    chosen = [one for one in found if step in (None, one.step)]
    if not chosen:
        steps = ", ".join(str(one.step) for one in found)
        raise CheckpointError(
            f"{job.checkpoints} has no complete checkpoint{'' if step is None else f' of step {step}'}; "
            f"{f'there are the steps {steps}' if steps else 'there is none'}"
        )
    prefix = job.prefix()
    claim(job, prefix)
    sent = _push_all(Sender(prefix, RateLimiter(0), int(job.upload.part_mb * 1e6)), chosen)
    return f"{to}: {len(sent)} checkpoints sent, {len(chosen) - len(sent)} were there"


def _push_all(sender: Sender, chosen: Sequence[LocalCheckpoint]) -> list[SentCheckpoint]:
    missing = [one for one in chosen if not _is_there(sender.prefix, one)]
    sent = []
    with Progress(f"push to {sender.prefix.url}", sum(o.num_bytes for o in missing), "MB", 1e6) as progress:
        for one in missing:
            with one.kept() as is_there:
                if not is_there:
                    raise CheckpointError(f"{one.path} was removed while it was to be sent; see checkpoint list")
                before = sender.stop_counting(one)
                seen = {file.path: file for file in sender.send_files(one, True, progress.add)}
                sent.append(sender.complete(one, seen, before))
    return [one for one in sent if one is not None]


def _is_there(prefix: Prefix, one: LocalCheckpoint) -> bool:
    """Also in full, when it was reduced to its weights here."""
    there = prefix.find(one.name)
    return there is not None and (is_sent(there, one) or has_more(there, one))


def pull(place: str, run: Path, folder: Path, storage: StorageConfig, step: int | None = None) -> str:
    """One checkpoint into `folder` of the run: the newest full one, or that of a step."""
    job = UploadJob(run, folder, UploadConfig(to=place), storage)
    prefix = job.prefix()
    name = newest_full(prefix) if step is None else f"step-{step}"
    if name is None:
        raise CheckpointError(f"{place}: no complete full checkpoint there; expected the upload.to of a run")
    _claim_prefix(job, prefix)
    path = fetch(prefix, name, job.checkpoints)
    return f"{path}: {prefix.read(name).num_bytes / 1e6:,.1f} MB, verified"


def _claim_prefix(job: UploadJob, prefix: Prefix) -> None:
    """A folder without checkpoints becomes the run whose address it is."""
    run_id = prefix.run_id()
    if run_id is not None and not committed_steps(job.checkpoints):
        write_durably(job.run / STATUS_DIR / RUN_ID, f"{run_id}\n")
