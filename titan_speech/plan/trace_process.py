"""Traces in a process of their own: jobs come in as a file, their traces go out as one.

In: `TraceJob`s. Out: a `StepTrace` of each, or a `PlanError` that says what did not fit together. Importing torch and
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

from titan_speech.errors import PlanError
from titan_speech.plan.step import StepTrace, TraceJob

MODULE = "titan_speech.plan.trace_process"


def traced(jobs: Sequence[TraceJob]) -> list[StepTrace]:
    """Trace jobs, in their order; those of one layout, world size and rank share a process.

    Raises:
        PlanError: model, layout and loss do not fit together; its text ends with what TorchTitan said.
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
            raise PlanError(f"the step cannot be traced at {jobs[0].world_size} ranks:\n{end_of(done.stderr)}")
        return pickle.loads(files[1].read_bytes())


def end_of(log: str, num_lines: int = 12) -> str:
    return "\n".join(f"  {line}" for line in log.strip().splitlines()[-num_lines:])


def main(jobs: Path, out: Path) -> None:
    from titan_speech import cpu
    from titan_speech.quiet import quieten_dependencies

    quieten_dependencies()
    cpu.prepare()
    from titan_speech.plan.step_trace import trace_steps

    out.write_bytes(pickle.dumps(trace_steps(pickle.loads(jobs.read_bytes()))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
