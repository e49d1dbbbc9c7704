"""Which checkpoints a path on the command line means.

In: a run folder, its checkpoint folder, or a checkpoint (.../step-N). Out: the folder of checkpoints, and of a run its
settings and losses as far as they lie there. The run's configuration is read as plain TOML: its stores and tokenizer
may be on another machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tomli

from titan_speech.checkpoint.commit import STEP_NAME, committed_steps
from titan_speech.checkpoint.folder import checkpoint_path
from titan_speech.config.resolved import FILE_NAME
from titan_speech.config.tables import CheckpointTable
from titan_speech.errors import CheckpointError


@dataclass(frozen=True)
class RunPlace:
    """Checkpoints of one run, and what is known of it."""

    folder: Path
    """Where step-N lie."""

    milestone_every_steps: int = 0
    loss_at: dict[int, float] = field(default_factory=dict)
    """Losses of logged steps."""

    def checkpoint(self, step: int) -> Path:
        """A checkpoint that is complete.

        Raises:
            CheckpointError: there is none of this step.
        """
        steps = committed_steps(self.folder)
        if step not in steps:
            known = f"there are the steps {', '.join(map(str, steps))}" if steps else "there is none"
            raise CheckpointError(f"no complete checkpoint of step {step} in {self.folder}; {known}")
        return checkpoint_path(self.folder, step)


def run_place(path: Path) -> RunPlace:
    """The checkpoints in `path`: a run folder, or the folder step-N lie in.

    Raises:
        CheckpointError: it is neither.
    """
    run_folder = path if (path / FILE_NAME).is_file() else path.parent
    if (run_folder / FILE_NAME).is_file():
        table = _table(run_folder / FILE_NAME)
        folder = run_folder / str(table.get("folder", CheckpointTable.folder))
        if path in (run_folder, folder):
            every = table.get("milestone_every_steps", CheckpointTable.milestone_every_steps)
            return RunPlace(folder, int(str(every)), _losses(run_folder))
    if any(STEP_NAME.match(step.name) for step in path.glob("step-*")):
        return RunPlace(path)
    raise CheckpointError(f"{path} is neither a run folder (with {FILE_NAME}) nor a folder with checkpoints (step-N)")


def checkpoints_at(path: Path, step: int | None = None) -> Iterator[Path]:
    """The checkpoint `path` is, or those of the run it is, or the one of `step`.

    Raises:
        CheckpointError: what was asked for by its step is not there.
    """
    if match := STEP_NAME.fullmatch(path.name):
        yield path if path.is_dir() else RunPlace(path.parent).checkpoint(int(match[1]))
        return
    place = run_place(path)
    steps = committed_steps(place.folder) if step is None else [step]
    yield from (place.checkpoint(one) if step is not None else checkpoint_path(place.folder, one) for one in steps)


def one_checkpoint(path: Path) -> Path:
    """The checkpoint `path` is, or the newest of the run it is.

    Raises:
        CheckpointError: there is none.
    """
    found = list(checkpoints_at(path))
    if not found:
        raise CheckpointError(f"no complete checkpoint in {path}; has the run saved one yet?")
    return found[-1]


def _table(file: Path) -> dict[str, object]:
    try:
        return tomli.loads(file.read_text(encoding="utf-8")).get("checkpoint", {})
    except ValueError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _losses(run_folder: Path) -> dict[int, float]:
    path = run_folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {record["step"]: record["loss"] for record in records if "event" not in record and record.get("loss")}
