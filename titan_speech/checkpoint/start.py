"""What a run starts from, decided from the files alone.

In: the [checkpoint] table, the run's checkpoint folder and this run's provenance. Out: the checkpoint to load and
whether only its weights are taken, or an error, before a process group exists and before anything is written. A
checkpoint is complete when it has `.metadata`, which DCP writes last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.config.tables import CheckpointTable
from titan_speech.data.phases.carry import PhaseEnd
from titan_speech.data.phases.files import FOLDER as PHASES_FOLDER
from titan_speech.data.phases.files import phase_end
from titan_speech.errors import CheckpointError

FRESH = -1


@dataclass(frozen=True)
class Start:
    """Where the weights come from; `step` is -1 unless the run's own folder has them."""

    step: int = FRESH
    checkpoint: Path | None = None

    @property
    def is_resume(self) -> bool:
        return self.step > 0

    def phase_end(self) -> PhaseEnd | None:
        """Where the data of a run that is gone on with stands.

        Raises:
            CheckpointError: nothing says it.
        """
        if not self.is_resume or self.checkpoint is None:
            return None
        end = phase_end(self.checkpoint)
        if end is None:
            raise CheckpointError(
                f"{self.checkpoint} has no {PHASES_FOLDER}/{self.checkpoint.name}.json beside it, which says how far "
                "each data stream was read; copy the folder along, or start another run from the checkpoint's weights "
                "(checkpoint.initial_load_path)"
            )
        return end

    def __str__(self) -> str:
        if self.checkpoint is None:
            return "fresh weights"
        return (
            f"step {self.step} of {self.checkpoint.parent}" if self.is_resume else f"the weights of {self.checkpoint}"
        )


def complete_steps(folder: Path) -> list[int]:
    """Steps with a complete checkpoint, in rising order."""
    names = (re.fullmatch(r"step-(\d+)", path.parent.name) for path in folder.glob("step-*/.metadata"))
    return sorted(int(name[1]) for name in names if name)


def choose_start(table: CheckpointTable, folder: Path, provenance: Provenance, hf_initial: Path | None = None) -> Start:
    """The start of a run whose checkpoints lie in `folder`; `hf_initial` has the weights of a run that has none.

    Raises:
        CheckpointError: what was asked for is absent, or belongs to another run.
    """
    if not table.enable or table.create_seed_checkpoint:
        return Start()
    steps = complete_steps(folder)
    if table.load_step != FRESH and table.load_step not in steps:
        missing = folder / f"step-{table.load_step}"
        raise CheckpointError(
            f"checkpoint.load_step = {table.load_step}: no complete checkpoint at {missing}; {_known(steps)}. "
            "Leave load_step out to resume from the newest."
        )
    start = _own(table, folder, steps) or (Start(checkpoint=hf_initial) if hf_initial else _initial(table))
    if start.checkpoint not in (None, hf_initial):
        found = read_provenance(start.checkpoint)
        if found is not None:
            provenance.check_fits(found, start.checkpoint, weights_only=not start.is_resume)
    return start


def _own(table: CheckpointTable, folder: Path, steps: list[int]) -> Start | None:
    if not steps:
        return None
    step = steps[-1] if table.load_step == FRESH else table.load_step
    return Start(step, folder / f"step-{step}")


def _initial(table: CheckpointTable) -> Start:
    if not table.initial_load_path:
        return Start()
    checkpoint = Path(table.initial_load_path).absolute()
    if not (checkpoint / ".metadata").is_file():
        raise CheckpointError(
            f"checkpoint.initial_load_path = {table.initial_load_path!r}: no complete checkpoint there; "
            f"{_known(complete_steps(checkpoint), checkpoint)}. Give a folder .../step-N that has .metadata."
        )
    return Start(checkpoint=checkpoint)


def _known(steps: list[int], folder: Path | None = None) -> str:
    where = f" in {folder}" if folder else ""
    return f"there are the steps {', '.join(map(str, steps))}{where}" if steps else f"there is none{where}"
