"""Checkpoints of a run: a start that every rank shares, saves by policy in the background, and who is notified.

In: the run's checkpoint folder, the [checkpoint] config and the provenance of this run.
Out: a start that is logged (random initialization, weights of another checkpoint, resumed at step N) and committed
checkpoints. At each step boundary all ranks agree on what is done there (distributed/consensus.py), so a request on one
rank is a save on all. A save that fails costs a checkpoint, not the run: training continues and logs it, up to
`max_failed_saves` in a row.

For others: `request_save` from any thread or signal handler, `must_stop`, `on_complete`. Whoever reads a checkpoint
holds its lock (`lock_for_reading`), which retention respects.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torchtitan.components.checkpoint import MODEL, OPTIMIZER, CheckpointManager, ModelWrapper
from torchtitan.observability import structured_logger
from torchtitan.tools.logging import logger

from titan_speech.checkpoint.choose_start import FRESH, Start, describe_last_good, describe_last_good_until
from titan_speech.checkpoint.commit import Commit, checkpoint_path, committed_steps, unsuspected_steps
from titan_speech.checkpoint.dcp_reader import SafeFileSystemReader, load_into
from titan_speech.checkpoint.folders import partial_path
from titan_speech.checkpoint.keeper import RetentionKeeper
from titan_speech.checkpoint.lora_base import Base
from titan_speech.checkpoint.provenance import Provenance, has_rotary_pairs, write_companion_files
from titan_speech.checkpoint.retention import Removal, is_due
from titan_speech.checkpoint.saver import SaveJob, Saver, SaveResult
from titan_speech.checkpoint.suspect import WeightBand
from titan_speech.config.schema_operations import CheckpointConfig, UploadConfig
from titan_speech.config.schema_parallelism import CommConfig
from titan_speech.config.schema_training import LoRAConfig
from titan_speech.data.phases import Phase
from titan_speech.distributed.consensus import (
    Agreement,
    Boundary,
    RanksSeeingRank0,
    broadcast_from_rank_0,
    ranks_seeing_rank_0,
)
from titan_speech.distributed.last_words import is_of_a_collective
from titan_speech.errors import CheckpointError, TitanSpeechError
from titan_speech.ledger.file import ledger
from titan_speech.ledger.records import COLLECTIVE_WAIT, SAVE_STALL
from titan_speech.model.lora import is_of_base, is_trained
from titan_speech.model.new_rows import local_part
from titan_speech.model.rotary import reorder_model
from titan_speech.utils.text_table import size_text

OnComplete = Callable[[Path, Commit], None]


class PartOfModel(ModelWrapper):
    """The weights of a model whose names are wanted."""

    def __init__(self, model_parts: list[torch.nn.Module], is_wanted: Callable[[str], bool]) -> None:
        self._is_wanted = is_wanted
        super().__init__(model_parts)

    def _get_state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super()._get_state_dict().items() if self._is_wanted(name)}


class SpeechCheckpointManager(CheckpointManager):
    """TorchTitan's manager with our start, our saves and our retention."""

    @dataclass(kw_only=True, slots=True)
    class Config(CheckpointManager.Config):
        settings: CheckpointConfig
        upload: UploadConfig
        comm: CommConfig
        """How long ranks wait for each other at a step boundary."""
        provenance: Provenance
        phases: tuple[Phase, ...]
        start: Start
        """What the run starts from, decided by rank 0 before the data was planned."""
        lora: LoRAConfig
        base: Base | None
        """The frozen weights of a LoRA run."""

    def __init__(self, config: Config, *, model_parts: list[torch.nn.Module], **kwargs: Any) -> None:
        self.settings, self.provenance, self.phases = config.settings, config.provenance, config.phases
        self.start, self.base = config.start, config.base
        self.parameters = [p for part in model_parts for p in part.parameters()]
        self.must_stop = False
        """True on all ranks from the boundary at which a request with `stop` was found."""
        self.on_complete: list[OnComplete] = []
        """Called with path and commit of each new checkpoint, on every rank, in the main thread at a step boundary."""
        self.ranks_seeing_rank_0: RanksSeeingRank0
        """Which ranks see the checkpoint folder of rank 0; set if saving is enabled."""
        self.only_skipped_since: Callable[[int], bool] = lambda _: False
        """Whether there were steps after a step, and each of them was skipped: set by the trainer."""
        self._band = WeightBand({}, 0)
        self._last_saved_step = max(config.start.step, 0)
        self._request, self._stop, self._num_failed, self._is_closing = "", False, 0, False
        self.stager = None  # `close` reads it also where the rest of the constructor failed
        self._waited_sec = 0.0
        """Time that training waited for the save that was started last."""
        super().__init__(config, model_parts=model_parts, **kwargs)
        if self.enable:
            if config.lora.is_on:
                self._base_weights = PartOfModel(model_parts, is_of_base)
                self.states[MODEL] = PartOfModel(model_parts, partial(is_trained, lora=config.lora))
            limits = (config.comm.init_timeout_seconds, config.comm.train_timeout_seconds)
            self._agreement = Agreement(*(timedelta(seconds=limit) for limit in limits))
            self._saver = Saver(config.settings.async_mode)
            self.ranks_seeing_rank_0 = ranks_seeing_rank_0(Path(self.folder))
            self._keeper = RetentionKeeper(
                Path(self.folder), config.settings, config.upload, has_all_files=self.ranks_seeing_rank_0.are_all
            )
            self._saved_at_sec = time.monotonic()

    def request_save(self, reason: str, *, stop: bool = False) -> None:
        """Save at the next step boundary on all ranks, and with `stop` end training there, with the save written.

        For any thread or signal handler of any rank; `reason` is kept in the checkpoint's marker when rank 0 asks.
        """
        self._request, self._stop = reason, self._stop or stop

    def _load(self, step: int = -1) -> bool:
        try:
            if self.base is not None:
                self._load_base(self.base)
            own_step = FRESH if self.start.is_branch else self.start.step
            loaded = super()._load(own_step) if self.base is None or self.start.is_resume else True
        except TitanSpeechError:
            raise
        except (Exception, CheckpointException) as error:  # a damaged file can raise anything
            if is_of_a_collective(error):
                raise  # another rank is lost, which says nothing of the files
            raise self._damaged(error) from error
        for passed_over in self.start.passed_over:
            logger.warning(f"Newer, and not usable: {passed_over}")
        if self.start.suspect:
            logger.warning(f"{self.start.checkpoint} is suspect: {self.start.suspect}. It was named, so it is loaded.")
        if self.enable:
            self._band = WeightBand(self.states[MODEL].state_dict(), self.settings.max_rms_growth)
        self._warn_of_newer_steps()
        self._saved_at_sec = time.monotonic()
        return loaded

    def _load_base(self, base: Base) -> None:
        """Load the frozen weights of a LoRA run; its adapter is initialized, or loaded after them."""
        adapter, self.states[MODEL] = self.states[MODEL], self._base_weights
        try:
            self.dcp_load(self._base_weights.state_dict(), str(base.path), from_hf=base.is_hf, from_quantized=False)
        finally:
            self.states[MODEL] = adapter

    def dcp_load(self, state_dict: dict[str, Any], checkpoint_id: str, from_hf: bool, from_quantized: bool) -> None:
        """As TorchTitan's, with a reader that runs nothing that is in a checkpoint; safetensors have nothing to run."""
        if from_hf:
            super().dcp_load(state_dict, checkpoint_id, from_hf, from_quantized)
            return
        checkpoint = Path(checkpoint_id)
        load_into(state_dict, SafeFileSystemReader(checkpoint))
        self.states[MODEL].load_state_dict(state_dict)
        self._reorder_rotary_pairs(checkpoint)

    def _reorder_rotary_pairs(self, checkpoint: Path) -> None:
        """Reorder the queries and keys that were just loaded, if they are in the order of the complex rotary form."""
        backbone, wrapper = self.provenance.backbone, self.states[MODEL]
        has_pairs = backbone is not None and has_rotary_pairs(checkpoint, backbone.family)
        if not broadcast_from_rank_0(has_pairs):  # another node may lack the record
            return
        is_base = self.base is not None and wrapper is self._base_weights
        optimizers = self.states[OPTIMIZER].optimizers
        reorder_model(wrapper.model, optimizers, base=self.base is None or is_base, adapter=not is_base)
        self.provenance = replace(self.provenance, reordered_from=str(checkpoint))
        logger.info(f"{checkpoint} is of the complex rotary embedding: its rows were reordered, with AdamW's moments")

    def _find_load_step(self, folder: str = "") -> int:
        """Only the start that was chosen is loaded, never what the names of folders suggest."""
        return -1

    def _warn_of_newer_steps(self) -> None:
        newer = [step for step in committed_steps(Path(self.folder)) if step > self.start.step > 0]
        if newer and self.settings.load_step == self.start.step:
            logger.warning(
                f"{self.folder} still holds the newer steps {', '.join(map(str, newer))}: a restart without "
                "checkpoint.load_step resumes from them. Move them away to stay on this branch."
            )

    def _damaged(self, error: BaseException) -> CheckpointError:
        older = [step for step in unsuspected_steps(Path(self.folder)) if step < self.start.step]
        way_out = f"load an older one with checkpoint.load_step = {older[-1]}" if older else "start in another folder"
        return CheckpointError(
            f"{self.start.checkpoint} cannot be read, so it is damaged or was cut short: {type(error).__name__}: "
            f"{str(error)[:500]}. Restore it, or {way_out}."
        )

    def _save(self, curr_step: int, last_step: bool = False) -> bool:
        """TorchTitan calls this at every step boundary."""
        requested, self._request = self._request, ""
        with ledger.part(COLLECTIVE_WAIT):
            boundary = self._agreement.agree(self._mine(requested))
        with ledger.part(SAVE_STALL):
            return self._save_if_due(curr_step, last_step, boundary, requested)

    def _save_if_due(self, curr_step: int, last_step: bool, boundary: Boundary, requested: str) -> bool:
        if self._saver.is_busy and not boundary.is_writing:
            self._settle()
        self.must_stop = boundary.must_stop
        reason = self._reason(curr_step, last_step, boundary, requested)
        if not reason:
            return False
        self._refuse_weights_that_are_not_finite(curr_step)
        if self._saver.is_busy:
            self._wait_for_previous_save(curr_step)
        with structured_logger.log_trace_span("checkpoint_stall"):
            self._begin(curr_step, reason, wait=last_step or boundary.must_stop)
        return True

    def _mine(self, requested: str) -> Boundary:
        """The flags of this rank."""
        every_sec = self.settings.at_least_every_minutes * 60
        is_time = every_sec > 0 and time.monotonic() - self._saved_at_sec >= every_sec
        return Boundary(
            is_requested=bool(requested),
            is_time=is_time and self._agreement.rank == 0,
            must_stop=self._stop,
            is_writing=self._saver.is_writing,
        )

    def _reason(self, step: int, last_step: bool, boundary: Boundary, requested: str) -> str:
        """Why a checkpoint is written at this boundary; empty if none is."""
        if last_step:
            return "last step"
        if boundary.is_requested or boundary.must_stop:
            return requested or "a request on another rank"
        if is_due(self.settings.cadence, step):
            return "schedule"
        return "wall time" if boundary.is_time else ""

    def _begin(self, step: int, reason: str, *, wait: bool) -> None:
        ledger.end_span()
        began = self._saved_at_sec = time.monotonic()
        checkpoint = checkpoint_path(Path(self.folder), step)
        is_seed, since = self.last_save_model_only, self._last_saved_step
        job = SaveJob(
            checkpoint,
            step,
            kind="model" if is_seed else "full",
            reason=reason,
            world_size=self._agreement.world_size,
            write_companions=lambda: write_companion_files(checkpoint, step, self.provenance, self.phases),
            band=self._band,
            suspect=f"all steps since step {since} were skipped" if self.only_skipped_since(since) else "",
        )
        state = self.states[MODEL].state_dict() if is_seed else self._flattened_model_states_sd()
        self._saver.start(state, job, wait=wait)
        self._waited_sec = time.monotonic() - began
        if not self._saver.is_async or wait:
            self._settle(is_last_chance=wait)

    def _wait_for_previous_save(self, step: int) -> None:
        began = time.monotonic()
        self._settle()
        logger.warning(
            f"At step {step} the previous save was still being written; training waited "
            f"{time.monotonic() - began:.1f} s for it. Save less often (checkpoint.cadence), or to faster storage."
        )

    def _settle(self, *, is_last_chance: bool = False) -> None:
        """End the save that was started; on all ranks at the same boundary."""
        result = self._saver.settle()
        if result.commit is None:
            self._count_failure(result, is_last_chance=is_last_chance)
            self._apply_retention(result.job.step)  # on a full disk, what waits for an upload is removed
            return
        self._num_failed, self._last_saved_step = 0, result.job.step
        commit, checkpoint = result.commit, result.job.checkpoint
        self._keeper.publish_on_this_node(checkpoint, commit)
        logger.info(
            f"{checkpoint} is complete ({commit.reason}): {size_text(commit.num_bytes)}, training waited "
            f"{self._waited_sec:.2f} s"
        )
        if commit.suspect:
            logger.warning(f"{checkpoint} is suspect: {commit.suspect}. {self.last_good()}")
        for listener in self.on_complete:
            _notify(listener, checkpoint, commit)
        self._apply_retention(result.job.step)

    def _apply_retention(self, step: int) -> None:
        if not self._is_closing:
            chosen = self._keeper.choose_removal(step) if self._agreement.rank == 0 else None
            self._keeper.remove(broadcast_from_rank_0(chosen, Removal, group=self._agreement.group))

    def _count_failure(self, result: SaveResult, *, is_last_chance: bool) -> None:
        self._num_failed += 1
        steps, limit = committed_steps(Path(self.folder)), self.settings.max_failed_saves
        partial = partial_path(result.job.checkpoint)
        rest = f"is still in {partial}, and the next start removes it" if partial.exists() else "was removed"
        message = (
            f"the checkpoint of step {result.job.step} could not be saved: {result.error}. What was written of it "
            f"{rest}; {f'the newest complete one is step {steps[-1]}' if steps else 'there is no other'}"
        )
        if is_last_chance or self._num_failed >= limit:
            raise CheckpointError(
                f"{message}. Saves that failed in a row: {self._num_failed}. Free disk space or give "
                "access, and start again."
            )
        logger.error(f"{message}. Training continues ({self._num_failed} of at most {limit} failures in a row).")

    def _refuse_weights_that_are_not_finite(self, step: int) -> None:
        shards = [local_part(parameter).detach() for parameter in self.parameters]
        norms = torch.stack(torch._foreach_norm([shard for shard in shards if shard.numel()]))
        is_finite = torch.isfinite(norms).all().to(torch.int32)
        torch.distributed.all_reduce(is_finite, op=torch.distributed.ReduceOp.MIN)
        if not is_finite.item():
            raise CheckpointError(
                f"the weights at step {step} are not finite (NaN or infinite), so they were not saved. "
                f"{self.last_good()} Lower optimizer.lr or training.max_norm before."
            )

    def last_good(self, until: int | None = None) -> str:
        """The last checkpoint that is not suspect, and what to do; on all ranks at one step boundary.

        Args:
            until: the last step of which a checkpoint is good, where the run cannot simply be restarted.
        """
        if not self.enable:
            return "Checkpoints are off: start again from the beginning."
        if self._saver.is_busy:
            self._settle()
        folder = Path(self.folder)
        return describe_last_good(folder) if until is None else describe_last_good_until(folder, until)

    def _maybe_wait_for_staging(self) -> None:
        with ledger.part(SAVE_STALL):
            self._saver.wait_for_staging()

    def _close(self) -> None:
        """Wait for a save that is still being written; the run may be ending for another reason."""
        saver, keeper = getattr(self, "_saver", None), getattr(self, "_keeper", None)
        if saver is not None:
            self._is_closing = True  # other ranks may not come here, so there is no consensus any more
            with ledger.part(SAVE_STALL):
                if saver.is_busy:
                    self._settle(is_last_chance=True)
                saver.close()
        if keeper is not None:
            keeper.close()
        super()._close()


def _notify(listener: OnComplete, checkpoint: Path, commit: Commit) -> None:
    """An error in a listener never stops training."""
    try:
        listener(checkpoint, commit)
    except Exception as error:
        logger.error(f"{checkpoint.name} is complete, but {listener} failed with it: {type(error).__name__}: {error}")
