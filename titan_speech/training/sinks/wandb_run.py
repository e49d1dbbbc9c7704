"""Weights & Biases: one run of theirs per run folder, over all restarts, online or offline.

In: metrics with their steps. Out: a run whose id is in RUN/wandb/run_id, so that a restart continues it. Steps only
rise: a restart repeats steps after its checkpoint, and what an earlier start has logged is not logged again (after a
rollback the values of the first attempt stay there; metrics.jsonl has both). The step is a metric, `step`, and the x
axis of all others. What decides where it goes is W&B's own: WANDB_API_KEY, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE;
without a network or a key the run is kept offline, and `wandb sync` sends it later.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from titan_speech.training.sinks.sink import Sample, Sink
from titan_speech.utils.files import write_atomically

PROJECT = "titan_speech"
INIT_SEC = 30.0
FLUSH_SETTING, FLUSH_SEC = "x_transaction_log_flush_interval", 1.0
"""A kill loses what was logged in the last second; by W&B's default it would be 15 s."""

FINISH_SEC = 60.0
"""How long the end of a run waits for what is not sent; the rest stays in RUN/wandb for `wandb sync`."""

logger = logging.getLogger(__name__)


class WandbSink(Sink):
    """Logs to one run of Weights & Biases."""

    def __init__(self, run_folder: Path, config: Mapping[str, Any], tags: Sequence[str], name: str = "") -> None:
        """
        Args:
            run_folder: of the run.
            config: what the user configured.
            tags: of the run.
            name: of the run; empty: that of its folder.
        """
        import wandb

        self._wandb = wandb
        (run_folder / "wandb").mkdir(parents=True, exist_ok=True)
        settings = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "name": name or os.environ.get("WANDB_NAME", run_folder.name),
            "id": _run_id(run_folder / "wandb" / "run_id"),
            "resume": "allow",
            "dir": str(run_folder),
            "config": dict(config),
            "tags": list(tags),
        }
        flush: dict[str, Any] = {FLUSH_SETTING: FLUSH_SEC} if FLUSH_SETTING in wandb.Settings.model_fields else {}
        quiet = wandb.Settings(init_timeout=INIT_SEC, silent=True, **flush)
        try:
            self._run = wandb.init(**settings, settings=quiet)
        except wandb.errors.Error as error:  # no network, no key
            logger.warning(
                f"Weights & Biases does not answer ({str(error).strip().partition(chr(10))[0]}): this run is logged "
                f"offline. Later: wandb sync {run_folder}/wandb/offline-run-*"
            )
            wandb.teardown()  # of the attempt, which still holds the run's id
            self._run = wandb.init(**settings, mode="offline", settings=quiet)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
        if not is_repeat:
            self._run.log({"step": step, **metrics})

    def samples(self, step: int, samples: Sequence[Sample], *, is_repeat: bool = False) -> None:
        if is_repeat or not samples:
            return
        table = self._wandb.Table(columns=["prompt", *samples[0].columns])
        for sample in samples:
            table.add_data(sample.name, *sample.columns.values())
        heard = {
            f"samples/{one.name}": self._wandb.Audio(one.audio_T, sample_rate=one.sample_rate, caption=one.name)
            for one in samples
            if one.audio_T is not None
        }
        self._run.log({"step": step, "samples": table, **heard})

    def close(self) -> None:
        finishing = threading.Thread(target=self._run.finish, name="wandb-finish", daemon=True)
        finishing.start()
        finishing.join(FINISH_SEC)
        if finishing.is_alive():
            logger.warning(
                f"Weights & Biases has not taken everything within {FINISH_SEC:.0f} s; wandb sync sends the rest"
            )


def _run_id(file: Path) -> str:
    """The id of the run: WANDB_RUN_ID, that of an earlier start, or a new one."""
    known = file.read_text("utf-8").strip() if file.exists() else ""
    run_id = os.environ.get("WANDB_RUN_ID") or known or uuid.uuid4().hex[:8]
    if run_id != known:
        write_atomically(file, run_id + "\n")
    return run_id
