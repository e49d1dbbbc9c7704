"""Milestones of a run as Hugging Face folders, written while training goes on.

In: the steps of milestones whose checkpoints are complete. Out: `hf/step-N` in the run folder for each, with the log of
its making beside it in `hf/step-N.log`. What a milestone and what a complete checkpoint is, checkpoint/ says.

Each is written by `titan-speech model export` in a process of its own: lowest priority, one thread, no GPU, not in the
run's process group, so a run that is killed does not take it along; the next start of the run waits for its lock on
the log before it looks what is missing. One at a time, in the order they came. It costs the machine of rank 0 one core
and the memory of one embedding while it runs (docs/backbones.md has figures). A failure is said and never stops
training; what was not written is taken up when the run is started again.

A run that went back (checkpoint.load_step, a rollback) comes to a step a second time with other weights: the folder of
the first time is told by the fingerprint of its weights, and replaced.
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

from titan_speech.checkpoint.commit import checkpoint_path, committed_steps
from titan_speech.checkpoint.retention import RetentionPolicy, pinned_steps
from titan_speech.errors import CheckpointError, ModelError
from titan_speech.hf.model_card import read_record, weights_fingerprint

EXPORT_DIR = "hf"
LOWEST_PRIORITY = 19
OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""Beginnings of the variables torchrun gives its workers."""

Command = Callable[[Path, Path], list[str]]


class MilestoneExporter:
    """One a run, on rank 0."""

    def __init__(self, run_folder: Path, command: Command | None = None) -> None:
        self.folder = run_folder / EXPORT_DIR
        self._command = command or export_command
        self._changed = threading.Condition()
        self._waiting: list[Path] = []
        self._running: subprocess.Popen[bytes] | None = None
        self._seen: set[int] = set()
        self._worker: threading.Thread | None = None

    def add(self, checkpoints: Iterable[Path]) -> None:
        """Complete checkpoints (.../step-N) of milestones; those that have their folder, or were given before, are
        passed over."""
        with self._changed:
            for checkpoint in checkpoints:
                if _step(checkpoint) in self._seen or _is_of(self.folder / checkpoint.name, checkpoint):
                    continue
                self._seen.add(_step(checkpoint))
                self._waiting.append(checkpoint)
            if self._waiting and self._worker is None:
                self._worker = threading.Thread(target=self._work, name="milestones", daemon=True)
                self._worker.start()

    @property
    def waiting_steps(self) -> tuple[int, ...]:
        """Steps that are being written or will be, in their order."""
        with self._changed:
            return tuple(_step(checkpoint) for checkpoint in self._waiting)

    def drain(self) -> None:
        """Wait until all that were given are written or have failed."""
        with self._changed:
            if self._waiting:
                logger.info(f"Waiting until {self._state()}; nothing is lost if this process is stopped now.")
            self._changed.wait_for(lambda: not self._waiting)

    def leave(self) -> None:
        """Say what a run that ends here leaves: the process that runs goes on, the others wait for the next start."""
        with self._changed:
            if self._waiting:
                logger.warning(
                    f"The run ends before {self._state()}. The one that is being written goes on by itself; the others "
                    "are written when the run is started again."
                )
            del self._waiting[1:]

    def _state(self) -> str:
        steps = ", ".join(map(str, self.waiting_steps))
        pid = f" (process {self._running.pid})" if self._running is not None else ""
        return f"the milestones of steps {steps} are written to {self.folder}{pid}"

    def _work(self) -> None:
        """In a thread: the first that waits, until none does."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._worker = None
                    return
                checkpoint = self._waiting[0]
            try:
                self._export(checkpoint)
            except OSError as error:
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
            f"Training goes on; by hand: {' '.join(command[1:])}"
        )

    def _start(self, command: list[str], checkpoint: Path, log: Path) -> subprocess.Popen[bytes] | None:
        """The process; None if one that an earlier start of the run left has written the folder meanwhile."""
        output = self.folder / checkpoint.name
        self.folder.mkdir(exist_ok=True)
        with log.open("ab") as out:
            fcntl.flock(out, fcntl.LOCK_EX)  # the process inherits it with its output, and holds it to its end
            if _is_of(output, checkpoint):
                return None
            if output.exists():
                logger.warning(f"{output} is of weights the run went back from; it is made anew.")
                shutil.rmtree(output)
            for killed in self.folder.glob(f"{output.name}.partial-*"):
                shutil.rmtree(killed, ignore_errors=True)
            out.truncate(0)
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=_environment(), start_new_session=True
            )
        os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
        with self._changed:
            self._running = process
        logger.info(f"{output} is being written (process {process.pid}).")
        return process


def milestones(folder: Path, policy: RetentionPolicy, newest_step: int) -> list[Path]:
    """Complete checkpoints in `folder` that are kept for ever: multiples of the policy, and what is pinned.

    Those beyond `newest_step`, where the run stands, are of a course it went back from.
    """
    pinned = pinned_steps(folder)
    steps = [step for step in committed_steps(folder) if policy.is_milestone(step) or step in pinned]
    return [checkpoint_path(folder, step) for step in steps if step <= newest_step]


def _is_of(folder: Path, checkpoint: Path) -> bool:
    """Whether a folder was exported from these very weights."""
    try:
        return folder.is_dir() and read_record(folder).weights == weights_fingerprint(checkpoint)
    except (ModelError, CheckpointError):  # a record or a marker that cannot be read
        return False


def export_command(checkpoint: Path, output: Path) -> list[str]:
    words = ("model", "export", "--checkpoint", str(checkpoint), "--output", str(output))
    return [sys.executable, "-m", "titan_speech", *words]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _environment() -> dict[str, str]:
    """Of a process that is no rank and sees no GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_RANK)}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing."
