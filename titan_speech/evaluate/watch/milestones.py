"""Milestone exports of a live run, compared with the checkpoints that they were made of.

In: RUN/hf/step-N, which a run exports without a comparison, since that takes the memory of the model. Out: for each a
result `parity-FINGERPRINT`, and a card that says what was found. A milestone whose checkpoint is gone stays unproved.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from titan_speech.checkpoint.commit import step_from_name
from titan_speech.errors import CheckpointError, ModelError
from titan_speech.evaluate.engines import ask_process
from titan_speech.evaluate.parity import compare
from titan_speech.evaluate.result import PARITY_PREFIX
from titan_speech.evaluate.watch.claims import WorkQueue, do_once
from titan_speech.evaluate.watch.run_checkpoints import RunCheckpoint, RunCheckpoints
from titan_speech.hf.export_on_save import EXPORT_DIR
from titan_speech.hf.model_card import card_with_parity, read_card, read_record
from titan_speech.hf.model_folder import HFFolder
from titan_speech.model.exported_files import CARD_NAME
from titan_speech.utils.files import write_atomically

logger = logging.getLogger(__name__)


@dataclass
class MilestoneCheck:
    """The milestones of one run."""

    run_folder: Path
    checkpoints: RunCheckpoints
    queue: WorkQueue

    def check_next(self) -> bool:
        """Compare one milestone that was not compared yet; False if all were."""
        for folder, checkpoint, key in self.unproved():
            if do_once(self.queue, key, partial(self._compare, folder, checkpoint), {"step": checkpoint.step}):
                return True
        return False

    def unproved(self) -> Iterator[tuple[Path, RunCheckpoint, str]]:
        """Exported folders whose checkpoint is there, without a result yet, with the key of it."""
        done = self.queue.done()
        complete = {(one.step, one.fingerprint): one for one in self.checkpoints.complete()}
        for folder in sorted((self.run_folder / EXPORT_DIR).glob("step-*/")):
            try:
                found = complete.get((step_from_name(folder.name) or 0, read_record(folder).weights))
            except ModelError:  # being written, or not an export
                continue
            if found is not None and (key := f"{PARITY_PREFIX}{found.fingerprint}") not in done:
                yield folder, found, key

    def _compare(self, folder: Path, checkpoint: RunCheckpoint) -> dict[str, Any]:
        try:
            with self.checkpoints.opened(checkpoint) as opened:
                dtype, card = HFFolder.open(folder).dtype, read_card(folder)
                report = compare(
                    opened, folder, lambda documents: ask_process("transformers", folder, documents, "float32"), dtype
                )
        except (CheckpointError, ModelError) as error:
            logger.warning("%s is not compared with its checkpoint: %s", folder, error)
            return {"failed": str(error), "step": checkpoint.step}
        lines = report.lines()
        level = logging.ERROR if report.problems else logging.INFO
        logger.log(level, "%s: %s", folder, lines[-1])
        write_atomically(folder / CARD_NAME, card_with_parity(card, lines))
        return {"parity": lines, "step": checkpoint.step, "differs": bool(report.problems)}
