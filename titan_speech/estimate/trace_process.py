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
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
            tree = fake_inputs(job.config, job.vocabulary, job.shape, world_size, Path(folder))
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
NUM_LAST_LINES = 12
"""Of a process that failed."""


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
        failure = f"the step cannot be traced at {jobs[indices[0]].world_size} ranks"
        found = run_in_process(MODULE, [jobs[index] for index in indices], failure)
        traces |= zip(indices, found, strict=True)
    return [traces[index] for index in range(len(jobs))]


def run_in_process(
    module: str, job: object, failure: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """Run `python -m module JOB OUT` with a pickled job, without a GPU.

    Args:
        module: has a `main` that reads JOB and may write OUT.
        job: what it does.
        failure: begins the message where it fails.
        environment: variables besides those of this process.

    Returns:
        What it pickled to OUT; None if it wrote nothing.

    Raises:
        EstimateError: it failed; the message ends with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="titan-speech-estimate-") as folder:
        asked, out = Path(folder) / "job", Path(folder) / "out"
        asked.write_bytes(pickle.dumps(job))
        done = subprocess.run(  # noqa: S603  (this interpreter and a module of this package)
            [sys.executable, "-m", module, str(asked), str(out)],
            env={**os.environ, **environment, "CUDA_VISIBLE_DEVICES": ""},  # fake tensors need no device
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last_lines = done.stderr.strip().splitlines()[-NUM_LAST_LINES:]
            raise EstimateError("\n".join([f"{failure}:", *(f"  {line}" for line in last_lines)]))
        return pickle.loads(out.read_bytes()) if out.exists() else None  # noqa: S301  (of the child, a private folder)


def main(jobs: Path, out: Path) -> None:
    from titan_speech.utils import cpu
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    cpu.prepare()

    asked = pickle.loads(jobs.read_bytes())  # noqa: S301  (of the parent, in a folder of this user alone)
    out.write_bytes(pickle.dumps(trace_steps(asked)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
