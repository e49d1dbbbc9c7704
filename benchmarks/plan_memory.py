"""The plan's memory against what a real process that trains holds at most, on a CPU.

In: nothing. Out: for a model of 7 M and one of 100 M parameters, the peak the plan computes (dense attention, fp32,
one process), what the tensors of a real run held at most, and what its resident memory rose by, from after one
tiny step, so that what is imported and allocated once is there, to its highest; JSON in benchmarks/results/. Tensors
are counted from the profiler's record of every allocation and release of torch's CPU allocator. Freed blocks go back to
the system at once (MALLOC_ARENA_MAX, mallopt), where a run keeps them for speed.

    python benchmarks/plan_memory.py
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from titan_speech.config.tables import (
    ActivationCheckpointTable,
    CheckpointTable,
    ModelTable,
    SpeechConfig,
    TokenizerTable,
    TrainingTable,
)
from titan_speech.model.published import published_shape
from titan_speech.model.shape import BackboneShape
from titan_speech.plan.rows import run_vocabulary
from titan_speech.plan.stand_in import stand_in
from titan_speech.plan.step import TraceJob
from titan_speech.plan.this_machine import on_this_machine
from titan_speech.plan.trace_process import traced
from titan_speech.trainer import SpeechTrainer

RESULT = Path(__file__).parent / "results" / "plan_memory.json"
DEBUG = published_shape("llama3", "debug")
SHAPES = {
    "debug": DEBUG,
    "100M": replace(DEBUG, num_layers=12, dim=640, num_heads=10, num_kv_heads=5, head_dim=64, hidden_dim=1920),
}
NUM_STEPS, SEQ_LEN, PACKS = 2, 256, 4
RANKS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def config_of(kind: str, seq_len: int = SEQ_LEN, packs: int = PACKS) -> SpeechConfig:
    return SpeechConfig(
        model=ModelTable(family="llama3"),
        tokenizer=TokenizerTable(path="tokenizer/tiny"),
        training=TrainingTable(
            seq_len=seq_len,
            global_batch_tokens=packs * seq_len,
            target_tokens=NUM_STEPS * packs * seq_len,
            local_batch_packs=packs,
            dtype="float32",
            mixed_precision_param="float32",
        ),
        activation_checkpoint=ActivationCheckpointTable(kind=kind),  # type: ignore[arg-type]
        checkpoint=CheckpointTable(enable=False),
    )


def resident_bytes(field: str) -> int:
    """`VmRSS` now, or `VmHWM`, the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def built(name: str, config: SpeechConfig, folder: Path) -> SpeechTrainer:
    config = on_this_machine(config)[0]
    return stand_in(config, run_vocabulary(config).vocabulary, SHAPES[name], 1, folder).trainer.build()


def take_steps(trainer: SpeechTrainer) -> None:
    batches = trainer.batch_generator(trainer.dataloader)
    for trainer.step in range(1, NUM_STEPS + 1):
        trainer.train_step(batches)


def most_allocated(profile: torch.profiler.profile) -> int:
    """Highest sum of the allocator's record, over what was there when it began."""
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def train(name: str, kind: str, by: str) -> None:
    """Real steps in this process; prints what tensors held at most, or what resident memory rose by."""
    from titan_speech import cpu

    cpu._keep_freed_memory = lambda: None
    cpu.prepare()
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    libc.mallopt(M_TRIM_THRESHOLD, 0)
    os.environ |= RANKS
    with tempfile.TemporaryDirectory() as folder:
        if by == "tensors":
            with torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            ) as profile:
                trainer = built(name, config_of(kind), Path(folder))
                take_steps(trainer)
            measured = most_allocated(profile)
        else:
            take_steps(built("debug", config_of("none", seq_len=16, packs=1), Path(folder) / "tiny"))
            gc.collect()
            libc.malloc_trim(0)
            before = resident_bytes("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
            trainer = built(name, config_of(kind), Path(folder) / "whole")
            take_steps(trainer)
            measured = resident_bytes("VmHWM") - before
        print(json.dumps({"measured": measured}), flush=True)
        trainer.close()


def measure(name: str, kind: str, by: str) -> int:
    command = [sys.executable, __file__, name, kind, by]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"measured"'))
    return json.loads(line)["measured"]


def computed(shape: BackboneShape, kind: str) -> dict[str, int]:
    config = on_this_machine(config_of(kind))[0]
    job = TraceJob(config, shape, run_vocabulary(config).vocabulary, 1, accumulates=False, fused_kernels=False)
    return dict(traced([job])[0].peak.num_bytes)


def row(name: str, shape: BackboneShape, kind: str) -> dict[str, object]:
    parts = computed(shape, kind)
    total, tensors, resident = sum(parts.values()), measure(name, kind, "tensors"), measure(name, kind, "resident")
    print(f"{name:6} {kind:5} computed {total / 1e6:7.1f} MB, tensors {tensors / 1e6:7.1f}, RSS {resident / 1e6:7.1f}")
    return {
        "model": name,
        "parameters": shape.num_parameters(run_vocabulary(config_of(kind)).vocabulary.num_rows),
        "activation_checkpoint": kind,
        "computed_bytes": total,
        "by_component": parts,
        "tensors_bytes": tensors,
        "resident_bytes": resident,
        "error_against_tensors": total / tensors - 1,
        "error_against_resident": total / resident - 1,
    }


def main() -> None:
    rows = [row(name, shape, kind) for name, shape in SHAPES.items() for kind in ("none", "full")]
    content = {"device": platform.processor() or platform.machine(), "torch": torch.__version__, "rows": rows}
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    train(*sys.argv[1:]) if len(sys.argv) > 1 else main()
