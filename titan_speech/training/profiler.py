"""Profiler traces of two windows: the first steps, with all one-time work, and some steps of the steady state.

In: the [profiler] table. Out: profiling/traces/{first,steady}/rank0_trace.json.gz in the run folder. Only rank 0 is
traced: ranks wait for each other, so one shows the time of all. `python -m benchmarks.trace_split TRACE` prints a
step-time breakdown. TorchTitan's own schedule repeats one cycle whose first window comes after a warm-up, so it never
sees the first steps. Outside the windows nothing is recorded and nothing slows down.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerAction, ProfilerActivity
from torchtitan.tools.logging import logger
from torchtitan.tools.profiler import PROFILE_DIR, Profiler

from titan_speech.config.schema_operations import ProfilerConfig

DATA_SPAN, PASS_SPAN = "titan_speech::data", "titan_speech::forward_backward"
"""Names in a trace: waiting for a batch; forward and backward of one microbatch."""


class SpeechProfiler(Profiler):
    """TorchTitan's profiler with these two windows."""

    @dataclass(kw_only=True, slots=True)
    class Config(Profiler.Config):
        table: ProfilerConfig

    def build_torch_profiler(
        self, *, global_step: int, base_folder: str, leaf_folder: str
    ) -> torch.profiler.profile | None:
        """Start profiling; windows count from `global_step`. None if switched off, and on ranks other than 0."""
        assert isinstance(self._config, SpeechProfiler.Config)
        settings = self._config.table
        if not settings.enable or torch.distributed.get_rank() != 0:
            return None
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        folder = Path(base_folder) / PROFILE_DIR

        def save(profile: torch.profiler.profile) -> None:
            name = "first" if profile.step_num - global_step <= settings.first_steps else "steady"
            trace = folder / name / leaf_folder / "rank0_trace.json.gz"
            trace.parent.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(trace))
            logger.info(f"Trace of steps up to {profile.step_num}: {trace}")

        profiler = torch.profiler.profile(
            activities=activities, schedule=lambda step: action(settings, step - global_step), on_trace_ready=save
        )
        profiler.__enter__()
        profiler.step_num = global_step
        return profiler


def action(settings: ProfilerConfig, step: int) -> ProfilerAction:
    """What the profiler does in the next step, after `step` steps of this process."""
    step = max(step, 0)
    for begin, count in ((0, settings.first_steps), (settings.steady_from, settings.steady_steps)):
        if begin <= step < begin + count:
            return ProfilerAction.RECORD if step < begin + count - 1 else ProfilerAction.RECORD_AND_SAVE
    return ProfilerAction.WARMUP if step == settings.steady_from - 1 and settings.steady_steps else ProfilerAction.NONE
