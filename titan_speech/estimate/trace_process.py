"""Trace optimizer steps on fake tensors, at the run's real shape and world size, in processes of their own.

In: `TraceJob`s: configuration, backbone, vocabulary, ranks, layers. Out: a `StepTrace` of each (memory peaks by place
and component, FLOPs, collectives), made by rank_trace.py or, for a rank of a pipeline, pipeline_trace.py; or an
`EstimateError` that says why not.

Process groups and devices are global to a process, so jobs of one layout and rank go to a process as a file, and their
traces come back as one. Importing torch and TorchTitan takes 6 s of it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torchtitan.distributed import ParallelDims
from torchtitan.distributed import utils as dist_utils

from titan_speech.errors import EstimateError
from titan_speech.estimate.fake_inputs import fake_inputs
from titan_speech.estimate.pipeline_trace import PipelineRankTrace
from titan_speech.estimate.rank_trace import RankTrace
from titan_speech.estimate.step_trace import StepTrace, TraceJob, global_rank
from titan_speech.trainer import SpeechTrainer


def trace_steps(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    """Trace jobs of one layout, world size and rank, in a process without a process group."""
    world_size, rank = jobs[0].world_size, global_rank(jobs[0])
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size), "NGPU": str(world_size)}
    torch.autograd.set_multithreading_enabled(False)
    dist_utils.init_fake_mode(world_size, rank=rank)
    dims: ParallelDims | None = None
    traces = []
    for job in jobs:
        with tempfile.TemporaryDirectory(prefix="titan-speech-estimate-") as folder:
            tree = fake_inputs(job.config, job.vocabulary, job.shape, world_size, Path(folder)).trainer
            if dims is None:
                dims = _build_meshes(tree, world_size)
            rank_trace = PipelineRankTrace if dims.pp_enabled else RankTrace
            traces.append(rank_trace(tree, job, dims).trace())
    return traces


def _build_meshes(tree: SpeechTrainer.Config, world_size: int) -> ParallelDims:
    """Meshes of ranks; FSDP requires that a process makes them once."""
    dims = ParallelDims.from_config(tree.parallelism, world_size)
    dims.build_mesh()
    dist_utils.set_spmd_backend(tree.parallelism.spmd_backend)
    return dims


MODULE = "titan_speech.estimate.trace_process"


def trace_jobs(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    """Trace jobs and return their traces in the same order; jobs of one layout, world size and rank share a process.

    Raises:
        EstimateError: model, layout and loss do not fit together; the message ends with the last lines of TorchTitan.
    """
    groups: dict[tuple[int, int, bool, str], list[int]] = {}
    for index, job in enumerate(jobs):
        layout = job.world_size, job.pipeline_rank, job.fused_kernels, repr(job.config.parallelism)
        groups.setdefault(layout, []).append(index)
    traces: dict[int, StepTrace] = {}
    for indices in groups.values():
        traces |= zip(indices, _trace_in_process([jobs[index] for index in indices]), strict=True)
    return [traces[index] for index in range(len(jobs))]


def _trace_in_process(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    with tempfile.TemporaryDirectory(prefix="titan-speech-estimate-") as folder:
        files = [Path(folder) / name for name in ("jobs", "traces")]
        files[0].write_bytes(pickle.dumps(list(jobs)))
        done = subprocess.run(  # noqa: S603  (this interpreter and this module)
            [sys.executable, "-m", MODULE, *map(str, files)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # fake tensors need no device
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise EstimateError(f"the step cannot be traced at {jobs[0].world_size} ranks:\n{last_lines(done.stderr)}")
        return pickle.loads(files[1].read_bytes())  # noqa: S301  (of the child, in a folder of this user alone)


def last_lines(log: str, num_lines: int = 12) -> str:
    return "\n".join(f"  {line}" for line in log.strip().splitlines()[-num_lines:])


def main(jobs: Path, out: Path) -> None:
    from titan_speech.utils import cpu
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    cpu.prepare()

    asked = pickle.loads(jobs.read_bytes())  # noqa: S301  (of the parent, in a folder of this user alone)
    out.write_bytes(pickle.dumps(trace_steps(asked)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
