"""Ten steps of the run itself: what it does on this machine, against what was predicted.

In: the words of the configuration and the number of processes. Out: a `DoctorOutcome`. The run has random weights and
saves nothing; everything else, data and batch included, is the run's own. On a machine without a GPU only debug models
are trained.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_training import INITIAL_FLAVOR
from titan_speech.doctor.outcome import DoctorOutcome, Verdict
from titan_speech.doctor.small_run import TIME_OVER
from titan_speech.doctor.training_process import train
from titan_speech.training.jsonl_log import read_flags, read_steps
from titan_speech.utils.text_table import counted

STEPS = 10
SLOW = 0.5
"""Of the prediction."""
DATA_WAIT = 0.1
SETTINGS = {
    "model.initial": '""',
    "stage.from": '""',
    "data.continue_from": '""',
    "upload.to": '""',
    "checkpoint.enable": "false",
    "health.on_spike": '"warn"',
    "validation.every_steps": "0",
    "generation_check.every_steps": "0",
    "profiler.enable": "false",
    "metrics.wandb": "false",
    "metrics.tensorboard": "false",
    "metrics.log_every_steps": "1",
}
"""Of the ten steps, in place of the run's own."""


def why_not(config: SpeechConfig, num_gpus: int) -> str:
    """Why the run cannot be tried here; empty if it can."""
    if config.lora.is_on:
        return "a LoRA run needs the weights of its base"
    if config.model.flavor == INITIAL_FLAVOR:
        return f'model.flavor = "{INITIAL_FLAVOR}" takes its sizes from the weights'
    if not num_gpus and not config.model.flavor.startswith("debug"):
        return f"no GPU here; {config.model.family} {config.model.flavor} is no model for a CPU"
    return ""


def throughput(
    words: Sequence[str],
    config: SpeechConfig,
    num_processes: int,
    folder: Path,
    predicted: float | None,
    within_sec: float,
) -> DoctorOutcome:
    """Train ten steps, or as many as there is time for.

    Args:
        words: of the configuration.
        config: the same, checked.
        num_processes: on this machine.
        folder: for the run folder.
        predicted: tokens per second and GPU; None: there is no prediction for this machine.
        within_sec: the time there is.
    """
    settings = {
        **SETTINGS,
        "job.dump_folder": f'"{folder}"',
        "training.target_tokens": str(STEPS * config.training.global_batch_tokens),
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", value.strip('"'))]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    trained = train([*launch, "-m", "titan_speech.train", *words, *flags], within_sec)
    records = read_steps(folder / "metrics.jsonl")
    steady = [records[step] for step in sorted(records)[2:]] or list(records.values())
    if not steady:
        if trained.is_late:
            return DoctorOutcome("throughput", Verdict.SKIPPED, "no step", TIME_OVER)
        return DoctorOutcome("throughput", Verdict.FAIL, f"no step (code {trained.code})", trained.last_lines)
    rate = statistics.median(record["tokens_per_sec_per_gpu"] for record in steady)
    wait = statistics.median(record["data_wait_fraction"] for record in steady)
    mfu = [record["mfu"] for record in steady if "mfu" in record]
    text = f"{counted(len(records), 'step')} on {counted(num_processes, 'rank')}: {rate:,.0f} tokens/s per rank"
    text += f", MFU {statistics.median(mfu):.1%}" if mfu else ""
    text += f", {wait:.1%} waiting for data, {max(r['memory_peak_gib'] for r in records.values()):.1f} GiB"
    remarks = []
    if wait > DATA_WAIT:
        remarks.append("raise data.num_workers or data.num_prefetch_batches: the device waits for batches")
    if predicted and rate < SLOW * predicted:
        remarks.append(f"{predicted:,.0f} were predicted; see docs/troubleshooting.md on slow runs")
    remarks += [f"flagged at {flag}" for flag in read_flags(folder / "metrics.jsonl")]
    if len(records) < STEPS:
        remarks.append(f"{STEPS} steps did not fit into the time")
    return DoctorOutcome("throughput", Verdict.WARN if remarks else Verdict.PASS, text, "\n".join(remarks))
