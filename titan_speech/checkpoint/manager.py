"""Checkpoints through TorchTitan's DCP manager, with a start rule that every rank shares.

In: the run's checkpoint folder and the provenance of this run. Out: a start that is announced (fresh, weights from
another checkpoint, resumed at step N) and saves with their provenance. Rank 0 alone decides which step is loaded and
tells the others: each listing a shared folder for itself could see another newest step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.tools.logging import logger

from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.errors import CheckpointError


class SpeechCheckpointManager(CheckpointManager):
    """TorchTitan's manager, told one step by rank 0 and writing provenance before each save."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        provenance: Provenance

    def __init__(self, config: Config, **kwargs: Any) -> None:
        self.provenance = config.provenance
        self.initial_load_path: str | None = config.initial_load_path
        self.start_announcement = "fresh weights"
        super().__init__(config, **kwargs)

    def _load(self, step: int = -1) -> bool:
        step = self._agreed_step(step)
        if step >= 0:
            self._check_provenance(Path(self._create_checkpoint_id(step)), weights_only=step == 0)
        elif self.initial_load_path:
            self._check_provenance(Path(self.initial_load_path), weights_only=True)
        loaded = super()._load(step)
        self.start_announcement = self._announcement(step)
        logger.info(f"This run starts from {self.start_announcement}.")
        return loaded

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if self._should_save(curr_step, last_step) and torch.distributed.get_rank() == 0:
            self.provenance.write(Path(self._create_checkpoint_id(curr_step)))
        return super()._save(curr_step, last_step)

    def _agreed_step(self, asked_step: int) -> int:
        """Rank 0's newest complete step, or the one asked for; -1 when the folder has none."""
        decision: list[Any] = [None]
        if torch.distributed.get_rank() == 0:
            newest = self._find_load_step()
            decision = [(newest if asked_step == -1 else asked_step, newest)]
        torch.distributed.broadcast_object_list(decision, src=0)
        step, newest = decision[0]
        if step != -1 and not Path(self._create_checkpoint_id(step), ".metadata").exists():
            found = f"the newest there is step {newest}" if newest != -1 else "there is none"
            raise CheckpointError(
                f"checkpoint.load_step = {step}: no complete checkpoint at {self._create_checkpoint_id(step)}; "
                f"{found}. Leave load_step out to resume from the newest."
            )
        return step

    def _check_provenance(self, checkpoint: Path, *, weights_only: bool) -> None:
        found = read_provenance(checkpoint)
        if found is None:
            logger.warning(f"{checkpoint} has no provenance record; it is loaded unchecked.")
            return
        self.provenance.check_fits(found, checkpoint, weights_only=weights_only)

    def _announcement(self, step: int) -> str:
        if step > 0:
            return f"step {step} of {self.folder}"
        if step == 0:
            return f"the weights of the seed checkpoint in {self.folder}"
        return f"the weights of {self.initial_load_path}" if self.initial_load_path else "fresh weights"
