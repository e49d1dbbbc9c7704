"""The steps of `benchmarks.first_gpu` that train: the run's own command in one process, on synthetic data.

In: a configuration, what is changed in it, a number of layers. Out: figures from the run's metrics: the median rate of
the steps after the first ones, memory, loss, recompilations, and the estimate and publication to compare with. Data
have the lengths of real segments (fake_data.py). With `debug` the debug model does the same on a CPU.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, free_port

DATA = ROOT / "outputs/benchmarks"
DEBUG_WORDS = {"training.global_batch_tokens": "1024", "training.local_batch_packs": "2", "loss.num_chunks": "4"}
NUM_STEPS, WARMUP_STEPS = 50, 10
DEBUG_STEPS, DEBUG_WARMUP = 6, 2
PUBLISHED = {"pt_1b": 46_000.0, "sft_1b": 18_000.0, "pt_8b": 8_000.0}
"""TTS-1, of a whole model on 32 GPUs."""
LAST_STEPS = 10
"""Whose mean loss is compared between precisions: the loss of one step is mostly that of its packs."""


def settings_file(name: str) -> str:
    """Of a case; `debug` is the debug model on a CPU."""
    return f"benchmarks/settings/{'debug_cpu' if name == 'debug' else name}.toml"


def training(config: str, overrides: Mapping[str, str], debug: bool, num_layers: int = 0) -> dict[str, Any]:
    """Train for some steps in this folder's copy of the run's command; figures of its steady steps."""
    name = Path(config).stem
    digest = hashlib.sha256(repr(sorted(overrides.items())).encode()).hexdigest()[:8]
    folder = ROOT / "outputs/benchmarks/first_gpu" / f"{name}-{num_layers}-{digest}"
    shutil.rmtree(folder, ignore_errors=True)
    records = train(config, overrides, debug, folder, num_layers)
    steady = [record for step, record in sorted(records.items()) if step > (DEBUG_WARMUP if debug else WARMUP_STEPS)]
    step_sec = [one["step_time_sec"] for one in steady]
    figures: dict[str, Any] = {
        "tokens_per_sec_per_gpu": statistics.median(one["tokens_per_sec_per_gpu"] for one in steady),
        "memory_gib": max(one["memory_peak_gib"] for one in steady),
        "loss": statistics.fmean(one["loss"] for one in steady[-LAST_STEPS:]),
        "steps": max(records),
        "recompilations": _log(folder).read_text(errors="replace").count("Recompiling function"),
        "slowest_over_median": max(step_sec) / statistics.median(step_sec),
        "estimated": _estimated(config, overrides, num_layers),
        "rates": [one["tokens_per_sec_per_gpu"] for one in steady],
    }
    if "mfu" in steady[-1]:
        figures["mfu"] = statistics.median(one["mfu"] for one in steady)
    published = next((rate for prefix, rate in PUBLISHED.items() if name.startswith(prefix)), None)
    if published is not None and not num_layers and not debug:
        figures["published"] = published
    return figures


def _estimated(config: str, overrides: Mapping[str, str], num_layers: int) -> float | None:
    """Tokens per second by parts on this device, one GPU; None where it has no datasheet."""
    from benchmarks.machine import device_key, this_machine
    from titan_speech.estimate.devices import DEVICES
    from titan_speech.estimate.efficiencies import DEFAULT_EFFICIENCIES
    from titan_speech.estimate.offline import run_shape, run_vocabulary
    from titan_speech.estimate.speed_by_parts import Pass, parts_of_pass
    from titan_speech.preflight.config_checks import load_config

    device = DEVICES.get(device_key(this_machine(0.0)))
    if device is None or not device.bf16_flops:
        return None
    words = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    loaded = load_config(["--job.config_file", config, *words], world_size=1).config
    shape = run_shape(loaded)[0]
    shape = replace(shape, num_layers=num_layers or shape.num_layers)
    attended = float(packed_positions(8, 2048).float().mean()) + 1
    one = Pass.of(loaded, attended, num_shards=1, passes_per_step=1, sending_sec=0.0)
    rows = run_vocabulary(loaded).vocabulary.num_rows
    return one.num_tokens / sum(parts_of_pass(shape, rows, one, device, DEFAULT_EFFICIENCIES).values())


def _log(folder: Path) -> Path:
    """The output of a training."""
    return folder.with_name(f"{folder.name}.log")


def train(
    config: str, overrides: Mapping[str, str], debug: bool, folder: Path, num_layers: int = 0
) -> dict[int, dict[str, Any]]:
    """Train in a process of its own, with its output next to the folder.

    Args:
        config: file of the run.
        overrides: keys and their values.
        debug: on a CPU, with shorter packs, not compiled.
        folder: of the run.
        num_layers: of the model; 0: all.

    Returns:
        The metrics of each step.

    Raises:
        RuntimeError: the training failed; its last lines.
    """
    from benchmarks.fake_data import write_stand_ins

    if not debug:
        family = "qwen3" if "pt_0.6b" in config else "llama3"
        write_stand_ins(DATA / family, family)
    steps = DEBUG_STEPS if debug else NUM_STEPS
    packs = int(overrides.get("training.local_batch_packs", "8"))
    words = {"training.global_batch_tokens": str(packs * 2048), "job.dump_folder": str(folder), **overrides}
    words["loss.num_chunks"] = str(packs)  # by the estimate's rule
    if debug:
        words |= DEBUG_WORDS
        for key in ("float8.recipe", "training.cuda_graphs"):
            words.pop(key, None)
        words |= {"compile.enable": "false", "training.seq_len": "256"}
    words["training.target_tokens"] = str(steps * int(words["training.global_batch_tokens"]))
    words |= {"metrics.log_every_steps": "1"}
    environment = {**os.environ, "BENCHMARK_LAYERS": str(num_layers), "TORCH_LOGS": "recompiles"}
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        environment.setdefault(name, value)
    environment.setdefault("MASTER_PORT", str(free_port()))
    command = [sys.executable, "-m", "benchmarks.loops.fewer_layers", "--job.config_file", config]
    command += [word for key, value in words.items() for word in (f"--{key}", value)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _log(folder).open("w") as log:  # of this training alone: its compilations are counted
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        signal.signal(signal.SIGTERM, lambda *_: (process.kill(), sys.exit(143)))
        code = process.wait()
    if code:
        lines = [line for line in _log(folder).read_text(errors="replace").splitlines() if line.strip()]
        raise RuntimeError(f"training ended with {code}: {' '.join(lines[-2:])[-400:]}")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["step"]: record for line in lines if "event" not in (record := json.loads(line))}


def resume(debug: bool) -> dict[str, Any]:
    """Six steps at once, and six with a save and a new process in the middle: the same losses to the last bit."""
    config = settings_file("debug" if debug else "pt_1b")
    save = {
        **({} if debug else {"training.local_batch_packs": "4"}),
        "checkpoint.enable": "true",
        "checkpoint.keep_last_full": "2",
        "checkpoint.export_milestones": "false",
        "checkpoint.cadence": "[{every = 3}]",
        "debug.deterministic": "false" if debug else "true",
    }
    folder = ROOT / "outputs/benchmarks/first_gpu/resume"
    shutil.rmtree(folder, ignore_errors=True)
    whole = train(config, save, debug, folder / "whole")
    shutil.copytree(folder / "whole", folder / "again")
    for newer in (folder / "again" / "checkpoint").glob("step-6*"):
        shutil.rmtree(newer)
    again = train(config, save, debug, folder / "again")
    steps = [4, 5, 6]
    differing = [step for step in steps if again[step]["loss"] != whole[step]["loss"]]
    times = {step: record["step_time_sec"] for step, record in whole.items()}
    shutil.rmtree(folder)
    if differing:
        raise RuntimeError(f"the losses of steps {differing} differ after a resume")
    return {
        "resumed_steps_equal": len(steps),
        "stall_sec": max(0.0, times[4] - statistics.median([times[2], times[5]])),
    }


def packed_positions(num_packs: int, length: int) -> Any:
    """Of packs with documents of speech segments' lengths."""
    import torch

    from benchmarks.large_store import speech_lengths

    lengths, packs = iter(speech_lengths(400).tolist()), []
    for _ in range(num_packs):
        pieces: list[Any] = []
        while sum(map(len, pieces)) < length:
            pieces.append(torch.arange(next(lengths)))
        packs.append(torch.cat(pieces)[:length])
    return torch.stack(packs)
