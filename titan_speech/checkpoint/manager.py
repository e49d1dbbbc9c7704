"""Checkpoints through TorchTitan's DCP manager, with a start rule that every rank shares.

In: the run's checkpoint folder and the provenance of this run. Out: a start that is announced (fresh, weights from
another checkpoint, resumed at step N) and saves with their provenance. Rank 0 alone decides which step is loaded and
tells the others: each listing a shared folder for itself could see another newest step. Weights that are not finite are
never saved; finding out costs one norm per parameter and one reduction at each save.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.tools.logging import logger

from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.start import Start, choose_start, complete_steps
from titan_speech.config.tables import CheckpointTable
from titan_speech.data.phases.carry import Phase
from titan_speech.data.phases.files import write_step
from titan_speech.errors import CheckpointError, TitanSpeechError


class SpeechCheckpointManager(CheckpointManager):
    """TorchTitan's manager, told one step by rank 0 and writing provenance before each save."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        table: CheckpointTable
        provenance: Provenance
        phases: tuple[Phase, ...]
        hf_initial: Path | None = None
        """Grown Hugging Face folder a run without checkpoints starts from."""

    def __init__(self, config: Config, *, model_parts: list[torch.nn.Module], **kwargs: Any) -> None:
        self.table, self.provenance, self.hf_initial = config.table, config.provenance, config.hf_initial
        self.start, self.phases = Start(), config.phases
        self.parameters = [p for part in model_parts for p in part.parameters()]
        super().__init__(config, model_parts=model_parts, **kwargs)

    def _load(self, step: int = -1) -> bool:
        decision: list[Any] = [None]
        if torch.distributed.get_rank() == 0:
            decision = [choose_start(self.table, Path(self.folder), self.provenance, self.hf_initial)]
        torch.distributed.broadcast_object_list(decision, src=0)
        self.start = decision[0]
        if self.start.checkpoint not in (None, self.hf_initial) and read_provenance(self.start.checkpoint) is None:
            logger.warning(f"{self.start.checkpoint} has no provenance record; it is loaded unchecked.")
        try:
            loaded = super()._load(self.start.step)
        except TitanSpeechError:
            raise
        except (Exception, CheckpointException) as error:  # whatever a damaged file makes of itself
            raise self._damaged(error) from error
        logger.info(f"This run starts from {self.start}.")
        self._warn_of_newer_steps()
        return loaded

    def _warn_of_newer_steps(self) -> None:
        newer = [step for step in complete_steps(Path(self.folder)) if step > self.start.step > 0]
        if newer:
            logger.warning(
                f"{self.folder} still holds the newer steps {', '.join(map(str, newer))}: a restart without "
                "checkpoint.load_step resumes from them. Move them away to stay on this branch."
            )

    def _damaged(self, error: BaseException) -> CheckpointError:
        older = [step for step in complete_steps(Path(self.folder)) if step < self.start.step]
        way_out = f"load an older one with checkpoint.load_step = {older[-1]}" if older else "start in another folder"
        return CheckpointError(
            f"{self.start.checkpoint} cannot be read, so it is damaged or was cut short: {type(error).__name__}: "
            f"{str(error)[:500]}. Restore it, or {way_out}."
        )

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        if self._should_save(curr_step, last_step):
            self._refuse_weights_that_are_not_finite(curr_step)
            if torch.distributed.get_rank() == 0:
                checkpoint = Path(self._create_checkpoint_id(curr_step))
                self.provenance.write(checkpoint)
                write_step(checkpoint, curr_step, self.phases)
        return super()._save(curr_step, last_step)

    def _refuse_weights_that_are_not_finite(self, step: int) -> None:
        shards = [p.to_local() if isinstance(p, DTensor) else p for p in self.parameters]
        norms = torch.stack(torch._foreach_norm([shard.detach() for shard in shards if shard.numel()]))
        is_finite = torch.isfinite(norms).all().to(torch.int32)
        torch.distributed.all_reduce(is_finite, op=torch.distributed.ReduceOp.MIN)
        if not is_finite.item():
            steps = complete_steps(Path(self.folder))
            last_good = f"the last sound checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"
            raise CheckpointError(
                f"the weights at step {step} are not finite (NaN or infinite), so they were not saved; {last_good}. "
                "Lower optimizer.lr or training.max_norm, and start again: the run resumes from there."
            )
