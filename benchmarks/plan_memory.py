"""Estimated memory against the peak memory of a real training process, on a CPU.

In: setups. Out: for each the estimated peak (dense attention, one process), the peak of the tensors of a real run, and
the rise of its resident memory, from after one tiny step (so that imports and one-time allocations are excluded) to its
maximum; JSON in benchmarks/results/. Tensors are counted from the profiler's record of every allocation and release of
torch's CPU allocator. Freed blocks go back to the system at once (MALLOC_ARENA_MAX, mallopt), while a run keeps them
for speed.

    python -m benchmarks.plan_memory           a model of 7 M and one of 100 M parameters, fp32
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import ROOT, memory_bytes, write_results
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_operations import CheckpointConfig
from titan_speech.config.schema_parallelism import ActivationCheckpointConfig
from titan_speech.config.schema_training import LossConfig, ModelConfig, TokenizerConfig, TrainingConfig
from titan_speech.estimate.fake_inputs import fake_inputs
from titan_speech.estimate.offline import offline_config, run_vocabulary
from titan_speech.estimate.step_trace import TraceJob
from titan_speech.estimate.trace_process import trace_jobs
from titan_speech.model.backbones import BackboneShape, published_shape
from titan_speech.trainer import SpeechTrainer

RESULT = Path(__file__).parent / "results" / "plan_memory.json"
DEBUG = published_shape("llama3", "debug")
SHAPES = {
    "debug": DEBUG,
    "100M": replace(DEBUG, num_layers=12, dim=640, num_heads=10, num_kv_heads=5, head_dim=64, hidden_dim=1920),
}
NUM_STEPS = 2
RANKS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Setup:
    """What is trained."""

    model: str
    """Of SHAPES."""
    recompute: str = "none"
    num_chunks: int = LossConfig().num_chunks
    compute_type: str = "float32"
    """fp32 masters stay."""
    tokenizer: str = "tokenizer/tiny"
    """A folder that is not there: the rows of the published backbones of the family."""
    family: str = "llama3"
    seq_len: int = 256
    packs: int = 4

    @property
    def shape(self) -> BackboneShape:
        return SHAPES[self.model] if self.family == "llama3" else published_shape(self.family, self.model)


def config_of(setup: Setup) -> SpeechConfig:
    tokens = setup.packs * setup.seq_len
    return SpeechConfig(
        model=ModelConfig(family=setup.family),  # type: ignore[arg-type]
        tokenizer=TokenizerConfig(path=setup.tokenizer),
        training=TrainingConfig(
            seq_len=setup.seq_len,
            global_batch_tokens=tokens,
            target_tokens=NUM_STEPS * tokens,
            local_batch_packs=setup.packs,
            dtype="float32",
            mixed_precision_param=setup.compute_type,  # type: ignore[arg-type]
        ),
        loss=LossConfig(num_chunks=setup.num_chunks),
        activation_checkpoint=ActivationCheckpointConfig(kind=setup.recompute),  # type: ignore[arg-type]
        checkpoint=CheckpointConfig(enable=False),
    )


def built(setup: Setup, folder: Path) -> SpeechTrainer:
    config = offline_config(config_of(setup))[0]
    return fake_inputs(config, run_vocabulary(config).vocabulary, setup.shape, 1, folder).build()


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


def train(setup: Setup, by: str) -> None:
    """Real steps in this process; prints what tensors held at most, or what resident memory rose by."""
    from titan_speech.utils import cpu

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
                trainer = built(setup, Path(folder))
                take_steps(trainer)
            measured = most_allocated(profile)
        else:
            tiny = replace(setup, model="debug", seq_len=16, packs=1, num_chunks=1, recompute="none")
            take_steps(built(tiny, Path(folder) / "tiny"))
            gc.collect()
            libc.malloc_trim(0)
            before = memory_bytes("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
            trainer = built(setup, Path(folder) / "whole")
            take_steps(trainer)
            measured = memory_bytes("VmHWM") - before
        print(json.dumps({"measured": measured}), flush=True)
        trainer.close()


def measure(setup: Setup, by: str) -> int:
    """Bytes, `by` tensors or resident, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.plan_memory", json.dumps(asdict(setup)), by]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"measured"'))
    return json.loads(line)["measured"]


def computed(setup: Setup) -> dict[str, int]:
    """Bytes by component, by the plan."""
    config = offline_config(config_of(setup))[0]
    vocabulary = run_vocabulary(config).vocabulary
    job = TraceJob(config, setup.shape, vocabulary, 1, accumulates=False, fused_kernels=False)
    return dict(trace_jobs([job])[0].peak.num_bytes)


def row(setup: Setup) -> dict[str, object]:
    parts = computed(setup)
    total, tensors, resident = sum(parts.values()), measure(setup, "tensors"), measure(setup, "resident")
    print(f"{setup} computed {total / 1e6:7.1f} MB, tensors {tensors / 1e6:7.1f}, RSS {resident / 1e6:7.1f}")
    return {
        "model": setup.model,
        "parameters": setup.shape.num_parameters(run_vocabulary(config_of(setup)).vocabulary.num_rows),
        "activation_checkpoint": setup.recompute,
        "computed_bytes": total,
        "by_component": parts,
        "tensors_bytes": tensors,
        "resident_bytes": resident,
        "error_against_tensors": total / tensors - 1,
        "error_against_resident": total / resident - 1,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """As docs/parallelism.md#estimates has it; sizes in MB."""
    lines = [
        "| parameters | recomputation | computed | tensors | error | resident | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        sizes = [f"{one[name] / 1e6:,.1f}" for name in ("computed_bytes", "tensors_bytes", "resident_bytes")]
        errors = [_percent(one[name]) for name in ("error_against_tensors", "error_against_resident")]
        cells = [f"{one['parameters'] / 1e6:.1f} M", one["activation_checkpoint"], sizes[0]]
        lines.append(f"| {' | '.join([*cells, sizes[1], errors[0], sizes[2], errors[1]])} |")
    return "".join(f"{line}\n" for line in lines)


def _percent(error: float) -> str:
    return f"{100 * error:+.1f} %" if abs(error) >= 1e-4 else "below 0.01 %"


def main() -> None:
    rows = [row(Setup(name, kind)) for name in SHAPES for kind in ("none", "full")]
    content = {"device": platform.processor() or platform.machine(), "torch": torch.__version__, "rows": rows}
    write_results(RESULT, content)


if __name__ == "__main__":
    train(Setup(**json.loads(sys.argv[1])), sys.argv[2]) if len(sys.argv) > 1 else main()
