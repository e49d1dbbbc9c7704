"""What metrics cost: the time inside metric calls against the time of steps, with every backend that needs no network.

    python benchmarks/metric_calls.py --json outputs/metric_calls.json
    python benchmarks/metric_calls.py --config my.toml --steps 100 --json outputs/mine.json      # of a run of your own

One process trains with TensorBoard, the endpoint for Prometheus, spans and the ledger on, and logs every tenth step.
Counted is the time inside: counting a batch, adding losses to their groups, the ledger's parts, span records, and at
log steps the reduction of all groups, metrics.jsonl, the console and the backends. On a GPU the calls that only launch
kernels count as what the host spends on them. The share is of wall time; milliseconds per step are CPU time of the main
thread, which other work on the machine does not change: a step of the debug model on a CPU takes seconds, and they are
the same next to a step of 0.3 s on a GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import free_port, load, this_machine, write_results

if not torch.cuda.is_available():
    from titan_speech.utils import cpu

    cpu.prepare()

from titan_speech import trainer as trainer_module
from titan_speech.ledger.clock import Clock
from titan_speech.ledger.file import Ledger
from titan_speech.train import main as train
from titan_speech.trainer import SpeechTrainer
from titan_speech.training.loss import GroupSums
from titan_speech.training.metrics import SpeechMetricsProcessor
from titan_speech.training.spans import SpanHandler

LIMIT = 0.02
"""Of the time of steps."""

LOG_EVERY = 10
FIRST_STEPS = 2
"""Left out: one-time work."""

METHODS = (
    (SpeechMetricsProcessor, "log"),
    (SpeechMetricsProcessor, "step_done"),
    (GroupSums, "add"),
    (GroupSums, "commit"),
    (Clock, "enter"),
    (Clock, "leave"),
    (Ledger, "step_ended"),
    (SpanHandler, "emit"),
)
FUNCTIONS = ("count_batch", "packs_by_stream")
"""Of the trainer's module."""


class Timer:
    """Seconds inside the outermost of the timed calls, by name, in the steps that count."""

    def __init__(self) -> None:
        self.cpu_by_call: dict[str, float] = defaultdict(float)
        self.step_sec: list[float] = []
        self.inside_sec: list[float] = []
        self.inside_cpu_sec: list[float] = []
        self._depth, self._inside, self._inside_cpu = 0, 0.0, 0.0
        self._is_counting = False

    def call(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            began, began_cpu = time.perf_counter(), time.thread_time()
            try:
                return plain(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0 and self._is_counting:
                    cpu_sec = time.thread_time() - began_cpu
                    self.cpu_by_call[name] += cpu_sec
                    self._inside += time.perf_counter() - began
                    self._inside_cpu += cpu_sec

        return timed

    def step(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def timed(trainer: SpeechTrainer, batches: Any) -> None:
            self._is_counting, self._inside, self._inside_cpu = trainer.step > FIRST_STEPS, 0.0, 0.0
            began = time.perf_counter()
            plain(trainer, batches)
            if self._is_counting:
                self.step_sec.append(time.perf_counter() - began)
                self.inside_sec.append(self._inside)
                self.inside_cpu_sec.append(self._inside_cpu)
            self._is_counting = False

        return timed


def measure(config: str, folder: Path, steps: int) -> dict[str, Any]:
    """Train, and return what was measured."""
    timer = Timer()
    for owner, name in METHODS:
        setattr(owner, name, timer.call(f"{owner.__name__}.{name}", getattr(owner, name)))
    for name in FUNCTIONS:
        setattr(trainer_module, name, timer.call(name, getattr(trainer_module, name)))
    SpeechTrainer.train_step = timer.step(SpeechTrainer.train_step)  # type: ignore[method-assign]
    tokens = json.dumps(steps * _tokens_per_step(config))
    words = ("--metrics.tensorboard", "true", "--metrics.prometheus", f"127.0.0.1:{free_port()}")
    every = ("--metrics.log_every_steps", str(LOG_EVERY), "--checkpoint.enable", "false")
    run = ("--job.config_file", config, "--job.dump_folder", str(folder), "--training.target_tokens", tokens)
    code = train([*run, *words, *every])
    if code:
        raise SystemExit(code)
    numbered = list(enumerate(timer.inside_cpu_sec, FIRST_STEPS + 1))
    plain = [seconds for step, seconds in numbered if step % LOG_EVERY and step != steps]
    logged = [seconds for step, seconds in numbered if not step % LOG_EVERY]
    return {
        "config": config,
        "steps": len(timer.step_sec),
        "log_every_steps": LOG_EVERY,
        "mean_step_sec": round(sum(timer.step_sec) / len(timer.step_sec), 4),
        "share_of_steps": round(sum(timer.inside_sec) / sum(timer.step_sec), 5),
        "limit": LIMIT,
        "cpu_ms_per_step_that_does_not_log": round(1000 * sum(plain) / max(len(plain), 1), 3),
        "cpu_ms_per_step_that_logs": round(1000 * sum(logged) / max(len(logged), 1), 3),
        "cpu_ms_per_step_by_call": {
            name: round(1000 * seconds / len(timer.step_sec), 4) for name, seconds in sorted(timer.cpu_by_call.items())
        },
    }


def _tokens_per_step(config: str) -> int:
    from titan_speech.preflight.config_checks import load_config

    return load_config(["--job.config_file", config]).config.training.global_batch_tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="train_configs/demo.toml", help="TOML file of the run (default: the demo)")
    parser.add_argument("--steps", type=int, default=40, help="steps to train (default: 40)")
    parser.add_argument("--folder", type=Path, default=Path("outputs/metric_calls"), help="run folder, a new one")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    if args.folder.exists():
        parser.error(f"--folder {args.folder} exists; give a new one")
    before = load()
    measured = measure(args.config, args.folder, args.steps)
    found = {"machine": asdict(this_machine(before)), **measured}
    write_results(args.json, found)
    print(json.dumps(found, indent=1))
    return int(found["share_of_steps"] > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
