"""Export milestones of a run as Hugging Face folders while training continues.

In: complete checkpoints of milestones (checkpoint/ decides which steps are milestones, and what is complete). Out:
`hf/step-N` in the run folder for each, with the log of its export in `hf/step-N.log`.

Each is written by `titan-speech model export` in a process of its own: lowest priority, one thread, no GPU, not in the
run's process group, so it survives when the run is killed; the next start of the run waits for its lock on the log
before it looks for missing exports. Exports run one at a time, in order, and without the comparison with the
checkpoint, which takes the memory of the model; their cards say so. The machine of rank 0 spends one core and the
memory of one embedding meanwhile (docs/export.md has measurements). A failure is logged and never stops training; what
was not written is exported after the next start of the run.

A run that goes back (checkpoint.load_step, a rollback) reaches a step a second time with other weights: the folder of
the first time has another fingerprint of its weights, and is replaced.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from torchtitan.tools.logging import logger

from titan_speech.checkpoint.commit import Checkpoint, checkpoint_path, committed_steps, suspicion
from titan_speech.checkpoint.lora_base import weights_fingerprint
from titan_speech.checkpoint.retention import RetentionPolicy, pinned_steps
from titan_speech.errors import CheckpointError, ModelError
from titan_speech.hf.model_card import read_record
from titan_speech.utils.safe_path import UnsafePathError, open_without_link

EXPORT_DIR = "hf"
LOWEST_PRIORITY = 19
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""Prefixes of the variables that torchrun sets for its workers."""

Command = Callable[[Path, Path], list[str]]
"""Builds a command line from a checkpoint and an output folder."""


class MilestoneExporter:
    """Queue and worker thread; one per run, on rank 0."""

    def __init__(self, run_folder: Path, command: Command | None = None) -> None:
        self.folder = run_folder / EXPORT_DIR
        self._command = command or export_command
        self._changed = threading.Condition()
        self._waiting: list[Path] = []
        self._running: subprocess.Popen[bytes] | None = None
        self._seen: set[int] = set()
        self._worker: threading.Thread | None = None

    def add(self, checkpoints: Iterable[Path]) -> None:
        """Queue complete checkpoints (.../step-N) of milestones, except those exported or queued before."""
        with self._changed:
            for checkpoint in checkpoints:
                if _step(checkpoint) in self._seen or _is_export_of(self.folder / checkpoint.name, checkpoint):
                    continue
                self._seen.add(_step(checkpoint))
                self._waiting.append(checkpoint)
            if self._waiting and self._worker is None:
                self._worker = threading.Thread(target=self._work, name="milestones", daemon=True)
                self._worker.start()

    @property
    def waiting_steps(self) -> tuple[int, ...]:
        """Steps that are being exported or queued, in order."""
        with self._changed:
            return tuple(_step(checkpoint) for checkpoint in self._waiting)

    def drain(self) -> None:
        """Wait until all queued checkpoints are exported or have failed."""
        with self._changed:
            if self._waiting:
                logger.info(f"Waiting until {self._state()}; nothing is lost if this process is stopped now.")
            self._changed.wait_for(lambda: not self._waiting)

    def cancel_queued(self) -> None:
        """Empty the queue of a run that ends now, with a warning; the export in progress continues by itself."""
        with self._changed:
            if self._waiting:
                logger.warning(
                    f"The run ends before {self._state()}. The export in progress continues by itself; the others are "
                    "written when the run is started again."
                )
            del self._waiting[1:]

    def _state(self) -> str:
        steps = ", ".join(map(str, self.waiting_steps))
        pid = f" (process {self._running.pid})" if self._running is not None else ""
        return f"the milestones of steps {steps} are exported to {self.folder}{pid}"

    def _work(self) -> None:
        """Body of the thread: export the first in the queue until the queue is empty."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._worker = None
                    return
                checkpoint = self._waiting[0]
            try:
                self._export(checkpoint)
            except (OSError, UnsafePathError) as error:
                logger.error(f"The milestone of step {_step(checkpoint)} could not be exported: {error}")
            with self._changed:
                self._waiting.pop(0)
                self._running = None
                self._changed.notify_all()

    def _export(self, checkpoint: Path) -> None:
        began, output = time.monotonic(), self.folder / checkpoint.name
        command, log = self._command(checkpoint, output), output.with_suffix(".log")
        process = self._start(command, checkpoint, log)
        code = process.wait() if process is not None else 0
        if code == 0:
            logger.info(f"{output} is complete after {time.monotonic() - began:.0f} s.")
            return
        logger.error(
            f"The milestone of step {_step(checkpoint)} could not be exported (exit code {code}): {_last_line(log)} "
            f"Training continues; to export it by hand: {' '.join(command[1:])}"
        )

    def _start(self, command: list[str], checkpoint: Path, log: Path) -> subprocess.Popen[bytes] | None:
        """Start the export; None if a process of an earlier start of the run has written the folder meanwhile."""
        output = self.folder / checkpoint.name
        self.folder.mkdir(exist_ok=True)
        with open(open_without_link(log, os.O_APPEND), "ab") as out:
            fcntl.flock(out, fcntl.LOCK_EX)  # the process inherits the lock with its output and holds it until it ends
            if _is_export_of(output, checkpoint):
                return None
            if output.exists():
                logger.warning(f"{output} has weights from before the run was rolled back; it is exported again.")
                shutil.rmtree(output)
            for left_over in self.folder.glob(f"{output.name}.partial-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            out.truncate(0)
            process = subprocess.Popen(  # noqa: S603  (this interpreter and a command of ours)
                command, stdout=out, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
            )
        os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
        with self._changed:
            self._running = process
        logger.info(f"{output} is being written (process {process.pid}).")
        return process


def milestones(folder: Path, policy: RetentionPolicy, newest_step: int) -> list[Path]:
    """Complete checkpoints in `folder` that retention never removes: multiples of the policy, and pinned ones.

    Suspect ones are left out.

    Args:
        folder: of the checkpoints.
        policy: has the multiple.
        newest_step: the run's current step; later checkpoints are from before a rollback and left out.
    """
    pinned = pinned_steps(folder)
    steps = [step for step in committed_steps(folder) if policy.is_milestone(step) or step in pinned]
    paths = [checkpoint_path(folder, step) for step in steps if step <= newest_step]
    return [path for path in paths if not suspicion(path)]


def _is_export_of(folder: Path, checkpoint: Path) -> bool:
    """Whether a folder was exported from exactly these weights."""
    try:
        return folder.is_dir() and read_record(folder).weights == weights_fingerprint(checkpoint)
    except (ModelError, CheckpointError):  # the record or the marker cannot be read
        return False


def export_command(checkpoint: Path, output: Path) -> list[str]:
    words = ("model", "export", "--no-check", "--checkpoint", str(checkpoint), "--output", str(output))
    return [sys.executable, "-m", "titan_speech", *words]


def _step(checkpoint: Path) -> int:
    return Checkpoint.at(checkpoint).step


def _environment() -> dict[str, str]:
    """Environment of a process that is not a rank and sees no GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(RANK_VARIABLES)}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it printed nothing."
