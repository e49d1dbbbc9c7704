"""Run folders for tests of the page: what a run writes, by the code that writes it."""

from __future__ import annotations

import json
from pathlib import Path

from titan_speech.training.jsonl_log import JsonlLogger

CONFIG = """
[job]
description = "{description}"

[training]
global_batch_tokens = 1_000
target_tokens = 50_000
"""


def write_run(folder: Path, *, description: str = "a run", steps: int = 50, restart_at: int | None = None) -> Path:
    """A run with losses, validation, generation checks and warnings; after a restart, steps are logged twice."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(CONFIG.format(description=description))
    log = JsonlLogger(folder / "metrics.jsonl")
    log.event("start", step=0, start_from="random initialization", world_size=2)
    for step in range(1, steps + 1):
        log_step(log, step)
    if restart_at is not None:
        log.event("start", step=restart_at, start_from=f"step-{restart_at}", world_size=1)
        for step in range(restart_at + 1, steps + 1):
            log_step(log, step)
    log.event("validation", step=steps, set="gold", **{"validation/gold/loss": 2.5, "validation/gold/perplexity": 12.2})
    log.event("generation", step=steps, **{"generation/stop_failure": 0.25, "generation/loop": 0.0})
    log.close()
    (folder / "generation").mkdir()
    record = {"sample_id": "a/1", "task": "tts", "language": "hi", "loop": 1.0, "stop_failure": 1.0}
    (folder / "generation" / f"step-{steps}.json").write_text(json.dumps([record]))
    (folder / "logs").mkdir()
    (folder / "logs" / "rank-0.log").write_text(
        "2026-01-01 10:00:00,123 INFO titan_speech: begun\n"
        "2026-01-01 10:00:01,123 WARNING root: Step 7 is skipped\n"
        "2026-01-01 10:00:02,123 WARNING root: Step 9 is skipped\n"
    )
    return folder


def log_step(log: JsonlLogger, step: int) -> None:
    log.log({"loss": 10.0 / step, "loss/language/hi": 11.0 / step, "grad_norm": 1.0, "lr": 1e-3}, step)
