"""What an uploader is told: which folder goes to which address, under which limits.

In: the [upload], [storage] and [checkpoint] tables. Out: one line of JSON for the uploading process.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from titan_speech.checkpoint.commit import committed_steps, write_durably
from titan_speech.checkpoint.retention import RetentionPolicy
from titan_speech.checkpoint.upload.remote import Prefix
from titan_speech.checkpoint.upload.status import STATUS_DIR
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_data import StorageConfig
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.errors import CheckpointError
from titan_speech.storage.s3 import Client, client_of
from titan_speech.storage.s3_url import S3Url

RUN_ID = "run.id"
KEEP_ALL = RetentionPolicy(keep_last_full=0, keep_last_model_only=0, milestone_every_steps=0)


@dataclass(frozen=True)
class UploadJob:
    """One node's part of a run's uploads."""

    run: Path
    checkpoints: Path
    upload: UploadConfig
    storage: StorageConfig
    policy: RetentionPolicy = KEEP_ALL
    """What stays at the address, with upload.keep = "policy"."""

    node: int = 0
    """Number of the node; that of rank 0 is 0, writes the manifests and removes what the policy does not keep."""

    num_nodes: int = 1
    """Nodes that have files of their own, which others do not see."""

    @classmethod
    def of_run(cls, config: SpeechConfig, node: int, num_nodes: int = 1) -> UploadJob:
        run, table = Path(config.job.dump_folder).absolute(), config.checkpoint
        policy = RetentionPolicy(table.keep_last_full, table.keep_last_model_only, table.milestone_every_steps)
        return cls(run, run / table.folder, config.upload, config.storage, policy, node, num_nodes)

    @property
    def completes(self) -> bool:
        return self.node == 0

    def prefix(self, anew: bool = False) -> Prefix:
        """`anew` reads credentials anew."""
        storage = replace(self.storage, num_connections=self.upload.num_connections)
        return Prefix(Client(storage) if anew else client_of(storage), S3Url.parse(self.upload.to))

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "run": str(self.run), "checkpoints": str(self.checkpoints)})


def node_number() -> int:
    """Of this process's node, as torchrun says."""
    by_ranks = int(os.environ.get("RANK", "0")) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(os.environ.get("GROUP_RANK", by_ranks))


def is_first_of_node() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def job_of_text(text: str) -> UploadJob:
    record = json.loads(text)
    upload = record["upload"]
    known = {
        "run": Path(record["run"]),
        "checkpoints": Path(record["checkpoints"]),
        "upload": UploadConfig(**{**upload, "kinds": tuple(upload["kinds"])}),
        "storage": StorageConfig(**record["storage"]),
        "policy": RetentionPolicy(**record["policy"]),
    }
    return UploadJob(**{**record, **known})


def claim(job: UploadJob, prefix: Prefix) -> None:
    """This run's, or nobody's yet, is what the address must be; a run without checkpoints takes over what is there.

    Raises:
        CheckpointError: the checkpoints there are another run's.
    """
    path = job.run / STATUS_DIR / RUN_ID
    ours = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    theirs = prefix.run_id()
    if theirs is None:
        ours = ours or uuid.uuid4().hex
        write_durably(path, ours + "\n")
        prefix.claim(ours)
    elif not ours and not committed_steps(job.checkpoints):
        write_durably(path, theirs + "\n")
    elif ours != theirs:
        raise _of_another_run(job, path, theirs)


def join(job: UploadJob, prefix: Prefix) -> None:
    """A node that is not the first notes whose checkpoints it sends: it may be the first one after a restart.

    Raises:
        CheckpointError: its folder is another run's.
    """
    path, theirs = job.run / STATUS_DIR / RUN_ID, prefix.run_id()
    ours = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if theirs is not None and not ours:
        write_durably(path, theirs + "\n")
    elif theirs != (ours or None):
        raise _of_another_run(job, path, str(theirs))


def _of_another_run(job: UploadJob, path: Path, theirs: str) -> CheckpointError:
    return CheckpointError(
        f"upload.to = {job.upload.to!r} holds the checkpoints of another run than {job.run}; give this run a prefix of "
        f"its own, or, if it is the same run, write {theirs} into {path}"
    )
