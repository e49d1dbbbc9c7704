"""One optimizer step of one rank, traced on fake tensors at the run's real shape and world size.

In: `TraceJob`s of one layout and rank: configuration, backbone, vocabulary, ranks, layers. Out: a `StepTrace` of each:
memory peaks by place and component, FLOPs and collectives (rank_trace.py, for a rank of a pipeline pipeline_trace.py).

It runs in a process of its own (trace_process.py), since process groups and devices are global.

Traces in a process of their own: jobs come in as a file, their traces go out as one.

In: `TraceJob`s. Out: a `StepTrace` of each, or an `EstimateError` that says why not. Importing torch and
TorchTitan takes 6 s of the whole.
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
from titan_speech.estimate.memory import StepTrace, TraceJob, global_rank
from titan_speech.estimate.pipeline_trace import PipelineRankTrace
from titan_speech.estimate.rank_trace import RankTrace
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
            tree = fake_inputs(job.config, job.vocabulary, job.shape, world_size, Path(folder)).trainer
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


MODULE = "titan_speech.estimate.trace_process"


def traced(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    """Trace jobs, in their order; those of one layout, world size and rank share a process.

    Raises:
        EstimateError: model, layout and loss do not fit together; its text ends with what TorchTitan said.
    """
    groups: dict[tuple[int, int, bool, str], list[int]] = {}
    for index, job in enumerate(jobs):
        layout = job.world_size, job.pipeline_rank, job.fused_kernels, repr(job.config.parallelism)
        groups.setdefault(layout, []).append(index)
    traces: dict[int, StepTrace] = {}
    for indices in groups.values():
        traces |= zip(indices, _in_one_process([jobs[index] for index in indices]), strict=True)
    return [traces[index] for index in range(len(jobs))]


def _in_one_process(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    with tempfile.TemporaryDirectory(prefix="titan-speech-plan-") as folder:
        files = [Path(folder) / name for name in ("jobs", "traces")]
        files[0].write_bytes(pickle.dumps(list(jobs)))
        done = subprocess.run(
            [sys.executable, "-m", MODULE, *map(str, files)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # fake tensors need no device
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise EstimateError(f"the step cannot be traced at {jobs[0].world_size} ranks:\n{end_of(done.stderr)}")
        return pickle.loads(files[1].read_bytes())


def end_of(log: str, num_lines: int = 12) -> str:
    return "\n".join(f"  {line}" for line in log.strip().splitlines()[-num_lines:])


def main(jobs: Path, out: Path) -> None:
    from titan_speech.utils import cpu
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    cpu.prepare()

    out.write_bytes(pickle.dumps(trace_steps(pickle.loads(jobs.read_bytes()))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
