"""One optimizer step of one rank, traced on fake tensors at the run's real shape and world size.

In: `TraceJob`s of one layout and rank: configuration, backbone, vocabulary, ranks, layers. Out: a `StepTrace` of each:
memory peaks by place and component, FLOPs and collectives (rank_trace.py, for a rank of a pipeline pipeline_trace.py).

It runs in a process of its own (trace_process.py), since process groups and devices are global.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torchtitan.distributed import ParallelDims
from torchtitan.distributed import utils as dist_utils

from titan_speech.plan.pipeline_trace import PipelineRankTrace
from titan_speech.plan.rank_trace import RankTrace
from titan_speech.plan.stand_in import stand_in
from titan_speech.plan.step import StepTrace, TraceJob, global_rank
from titan_speech.trainer import SpeechTrainer


def trace_steps(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    """Trace steps of one layout, world size and rank; this process has no process group yet."""
    world_size, rank = jobs[0].world_size, global_rank(jobs[0])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size), "NGPU": str(world_size)}
    torch.autograd.set_multithreading_enabled(False)
    dist_utils.init_fake_mode(world_size, rank=rank)
    dims: ParallelDims | None = None
    traces = []
    for job in jobs:
        with tempfile.TemporaryDirectory(prefix="titan-speech-plan-") as folder:
            tree = stand_in(job.config, job.vocabulary, job.shape, world_size, Path(folder)).trainer
            if dims is None:
                dims = _layout(tree, world_size)
            of_rank = PipelineRankTrace if dims.pp_enabled else RankTrace
            traces.append(of_rank(tree, job, dims).trace())
    return traces


def _layout(tree: SpeechTrainer.Config, world_size: int) -> ParallelDims:
    """Meshes of ranks; made once in a process, which FSDP insists on."""
    dims = ParallelDims.from_config(tree.parallelism, world_size)
    dims.build_mesh()
    dist_utils.set_spmd_backend(tree.parallelism.spmd_backend)
    return dims
