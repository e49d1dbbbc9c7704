"""Traces of two windows: the first steps, with all that is made once, and some of a steady state.

In: the [profiler] table. Out: profiling/traces/{first,steady}/rank0_trace.json.gz in the run folder, of rank 0 alone:
ranks wait for each other, so one of them shows what all take; `python -m benchmarks.trace_split TRACE` says what the
time went to. TorchTitan's own schedule repeats one cycle, whose first window lies behind its warm-up. Outside its
windows nothing is recorded and nothing slows down.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerAction, ProfilerActivity
from torchtitan.tools.logging import logger
from torchtitan.tools.profiler import PROFILE_DIR, Profiler

from titan_speech.config.schema_operations import ProfilerConfig

DATA, PASS = "titan_speech::data", "titan_speech::forward_backward"
"""Marks in a trace: waiting for a batch; one microbatch forward and backward."""


class SpeechProfiler(Profiler):
    """TorchTitan's profiler with windows of our own."""

    @dataclass(kw_only=True, slots=True)
    class Config(Profiler.Config):
        table: ProfilerConfig

    def build_torch_profiler(
        self, *, global_step: int, base_folder: str, leaf_folder: str
    ) -> torch.profiler.profile | None:
        """Begun at step `global_step`, from which the windows count; None when switched off, or not on rank 0."""
        assert isinstance(self._config, SpeechProfiler.Config)
        table = self._config.table
        if not table.enable or torch.distributed.get_rank() != 0:
            return None
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        folder = Path(base_folder) / PROFILE_DIR

        def save(profile: torch.profiler.profile) -> None:
            name = "first" if profile.step_num - global_step <= table.first_steps else "steady"
            trace = folder / name / leaf_folder / "rank0_trace.json.gz"
            trace.parent.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(trace))
            logger.info(f"Trace of steps up to {profile.step_num}: {trace}")

        profiler = torch.profiler.profile(
            activities=activities, schedule=lambda step: action(table, step - global_step), on_trace_ready=save
        )
        profiler.__enter__()
        profiler.step_num = global_step
        return profiler


def action(table: ProfilerConfig, step: int) -> ProfilerAction:
    """What is done in the step after `step` steps of this process; below 0 is the first, too."""
    step = max(step, 0)
    for begin, count in ((0, table.first_steps), (table.steady_from, table.steady_steps)):
        if begin <= step < begin + count:
            return ProfilerAction.RECORD if step < begin + count - 1 else ProfilerAction.RECORD_AND_SAVE
    return ProfilerAction.WARMUP if step == table.steady_from - 1 and table.steady_steps else ProfilerAction.NONE
