"""The uploader of this process's node, if it needs one.

In: the configuration and who sees whose folder. Out: an `Uploader` on the first process of node 0, and on that of every
node that does not see node 0's folder: without a shared file system each node sends what its ranks wrote.
"""

from __future__ import annotations

import os

import torch.distributed as dist

from titan_speech.checkpoint.disks import Disks
from titan_speech.checkpoint.upload.job import UploadJob, is_first_of_node, node_number
from titan_speech.checkpoint.upload.process import Uploader
from titan_speech.config.tables import SpeechConfig


def start_uploads(config: SpeechConfig, disks: Disks) -> Uploader | None:
    """None where another process sends, or there is nothing to be sent."""
    table, rank = config.checkpoint, dist.get_rank()
    if not config.upload.to or not table.enable or table.create_seed_checkpoint or not is_first_of_node():
        return None
    if rank != 0 and disks.sees_rank_0[rank]:
        return None
    num_nodes = 1 if disks.are_shared else dist.get_world_size() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Uploader(UploadJob.of_run(config, node_number(), num_nodes))
