"""Throughput, MFU, the time of a step and what of it waits for data, padding and memory."""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.report.blocks import Charts, Section
from titan_speech.report.chart import Chart
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of, restarts


def throughput(runs: Sequence[Run]) -> Section | None:
    """How fast the run was."""
    if not names_of(runs, "tokens_per_sec_per_gpu"):
        return None
    rates = {"tokens_per_sec_per_gpu": "all tokens", "trained_tokens_per_sec_per_gpu": "trained tokens"}
    mfu = {"mfu": "attention over the whole pack", "mfu_of_documents": "attention within documents"}
    charts: list[Chart] = [
        chart(runs, "Throughput", "tokens per second and GPU", rates, from_zero=True, marks=restarts(runs)),
        chart(runs, "MFU", "of the peak of the device", mfu, is_share=True),
        chart(runs, "Time of a step", "seconds", {"step_time_sec": "step"}, from_zero=True),
        chart(runs, "Audio", "seconds per second, all GPUs", {"audio_sec_per_sec": "audio"}, from_zero=True),
        chart(
            runs,
            "Waiting for data and padding",
            "share of time, share of tokens",
            {"data_wait_fraction": "waiting for data", "pad_fraction": "padding"},
            is_share=True,
        ),
        chart(runs, "Memory, highest of rank 0", "GiB", {"memory_peak_gib": "memory"}, from_zero=True),
    ]
    known = any(run.log.column("mfu").steps for run in runs)
    lead = "Steps only: validation, generation checks and saves between steps have their place in the ledger."
    lead += "" if known else " There is no MFU: the peak of this device is not known."
    return Section("throughput", "Throughput", lead, [Charts(charts)])
