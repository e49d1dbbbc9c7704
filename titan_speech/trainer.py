"""SpeechTrainer: TorchTitan's trainer with speech data, losses per group, and steps that are skipped or rolled back.

In: `SpeechTrainer.Config`, built by `titan_speech.trainer_config`. Out: a trained run with checkpoints and
metrics.jsonl. The loop and the parallelism are TorchTitan's; only its documented seams are overridden: `__init__`,
`batch_generator`, `should_continue_training`, `forward_backward_step`, `train_step`, `train`, the state dict, `close`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.fsdp import FSDPModule
from torch.profiler import record_function
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from titan_speech.checkpoint.manager import SpeechCheckpointManager
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.batch_checks import check_labels, packs_by_stream
from titan_speech.data.code_shift import open_code_shift_check
from titan_speech.data.generation_prompts import GenerationPrompt
from titan_speech.data.loader import ANSWERS, Batch, SpeechDataLoader, worker_error
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import ValidationSet
from titan_speech.distributed.last_words import is_of_a_collective
from titan_speech.errors import BoundsLeftError
from titan_speech.health.monitor import BatchFinder, HealthMonitor, HealthState
from titan_speech.health.rollback import Rollbacks
from titan_speech.health.signals import StopRun, StopSignals, describe_kept
from titan_speech.health.watchdog import HangReport
from titan_speech.ledger.clock import UNCLASSIFIED
from titan_speech.ledger.file import ledger
from titan_speech.ledger.records import DATA_WAIT, IDLE, STEP, VALIDATION
from titan_speech.training.callback import RunCallback, RunEnd
from titan_speech.training.forward_pass import ForwardPasses
from titan_speech.training.loss import GroupedCrossEntropy, StreamKey
from titan_speech.training.lr_schedule import TokenBudgetSchedule
from titan_speech.training.metrics import RunFacts, SpeechMetricsProcessor, count_batch, counted_flops
from titan_speech.training.optimizer import SpeechOptimizers
from titan_speech.training.preference import TRAINING_PAIRS, Preference, ReferenceForward
from titan_speech.training.preference_loss import PreferenceLoss
from titan_speech.training.profiler import DATA_SPAN, PASS_SPAN
from titan_speech.training.step_guard import StepGuard
from titan_speech.training.tensor_norms import TensorNorms
from titan_speech.training.validation import deal
from titan_speech.utils.text_table import counted


class SpeechTrainer(Trainer):
    """Trains one stage."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        speech: SpeechConfig
        budget: Budget
        plan: DataPlan
        validation_sets: tuple[ValidationSet, ...]
        generation_prompts: tuple[GenerationPrompt, ...]
        callbacks: Callable[[SpeechTrainer], Sequence[RunCallback]]
        """Builds the callbacks of the run from the finished trainer."""

        def to_dict(self) -> dict[str, Any]:
            """The configuration as experiment trackers store it: what the user configured."""
            return asdict(self.speech)

    config: Config
    metrics_processor: SpeechMetricsProcessor
    checkpointer: SpeechCheckpointManager
    optimizers: SpeechOptimizers
    lr_schedulers: TokenBudgetSchedule
    dataloader: SpeechDataLoader

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        health, run_folder = config.speech.health, Path(config.dump_folder)
        is_first_rank = torch.distributed.get_rank() == 0
        loss = cast(GroupedCrossEntropy, cast(ChunkedLossWrapper, self.loss_fn).loss_fn)
        loss.groups.keep_in(self.model_parts[-1], self.device)
        self.guard = StepGuard(self.device, self.parallel_dims.tp, loss.groups)
        self.optimizers.guard = self.guard
        finder = BatchFinder(config.plan, self.dataloader.shape, self.parallel_dims.tp * self.parallel_dims.cp)
        self.health = HealthMonitor(
            health,
            run_folder,
            finder,
            warmup_steps=config.budget.warmup_steps,
            is_first_rank=is_first_rank,
            flag=self.metrics_processor.flag,
        )
        self.hangs = HangReport(run_folder, finder.slots)
        self.forward_passes = ForwardPasses(self, lambda where: self.hangs.heartbeat.mark(self.step, where))
        self.rollbacks = Rollbacks(health, run_folder, run_folder / config.speech.checkpoint.folder)
        self._use_rate_of_rollbacks()
        self.preference = self._preference() if config.speech.preference.is_on else None
        self.code_shift = open_code_shift_check(config.speech, config.plan) if is_first_rank else None
        """Set on rank 0, whose batches are a sample of those of all ranks; None without held-out sets."""
        self.tensor_norms = TensorNorms(
            self.model_parts,
            config.speech.metrics,
            num_old_rows=config.plan.vocabulary.num_base,
            num_layers=len(self.model_config.layers),
            pipeline_degree=self.parallel_dims.pp,
            records_layers=config.training.disable_cuda_graphs,
            device=self.device,
            log=self.metrics_processor.log_between_steps,
        )
        self._num_microbatches = 0
        """Microbatches of the current step that have begun."""
        self.has_trained = False
        """True once this process has done a step."""
        self.metrics_processor.attach(self._facts(), loss.groups, self.device)
        self.callbacks = config.callbacks(self)
        self.checkpointer.only_skipped_since = lambda step: self._settled_health().only_skipped_since(step)
        self.checkpointer.on_complete += [callback.checkpoint_complete for callback in self.callbacks]
        sources = self.metrics_processor.sources
        sources += [callback.metrics for callback in self.callbacks]
        sources.append(lambda: self._settled_health().figures(self.step))
        if self.preference is not None:
            sources.append(self.preference.metrics)

    def _preference(self) -> Preference:
        config, dataloader = self.config, self.dataloader
        return Preference(
            config.speech.preference,
            cast(PreferenceLoss, self.loss_fn),
            config.plan,
            config.validation_sets,
            self.parallel_dims,
            self.device,
            ReferenceForward(
                self.forward_passes.reference_log_probabilities,
                lambda packs: deal(packs, config.plan, dataloader.shape, dataloader.dp_rank),
            ),
        )

    def _settled_health(self) -> HealthMonitor:
        """The health of all steps so far; called at a log step or a save, which wait for the device anyway."""
        self.health.observe(self.guard.readings(settle=True))
        return self.health

    def _facts(self) -> RunFacts:
        config = self.config
        return RunFacts(
            streams=[StreamKey(s.source, s.language, s.task) for s in config.plan.streams],
            seq_len=config.training.seq_len,
            num_steps=config.budget.num_steps,
            global_batch_tokens=config.speech.training.global_batch_tokens,
            flops=counted_flops(self.model_config),
            planned_packs=lambda after, until: self.rollbacks.planned_packs(config.plan, after, until),
        )

    def batch_generator(self, data_iterable: Iterable[Batch]) -> Iterator[Batch]:
        """Log the start of the run once, then yield TorchTitan's batches and count those of steps that are trained.

        The body of a generator begins with its first `next`, which is in the first step.
        """
        metrics = self.metrics_processor
        metrics.start_at(self.step - 1, str(self.checkpointer.start))
        vocabulary = self.config.plan.vocabulary
        batches = super().batch_generator(data_iterable)
        closing_ids = self.config.plan.grammar.closing_ids
        is_first = True
        while True:
            with record_function(DATA_SPAN), ledger.part(DATA_WAIT):
                inputs, labels_BL = next(batches)
            if is_first:
                check_labels(inputs["input"], labels_BL, inputs["positions"], closing_ids)
                is_first = False
            for names, found in self.code_shift.findings(inputs["input"], labels_BL) if self.code_shift else ():
                metrics.flag(f"the codes of {names}", self.step, found)
            metrics.packs_S += packs_by_stream(labels_BL, len(metrics.packs_S))  # read, also where a step is skipped
            if not self.rollbacks.skips(self.step):
                metrics.counts += count_batch(inputs["input"], inputs["positions"], labels_BL, vocabulary)
            yield inputs, labels_BL

    def should_continue_training(self) -> bool:
        """False when all steps are done; a run that has no step left at its start logs that.

        Raises (on all ranks at the same step):
            HealthError: too many steps were skipped, or a loss spike cannot be rolled back.
            StopRun: the run was asked to stop and is saved, or goes back to an earlier checkpoint.
        """
        self.health.end_if_due(self.checkpointer.last_good)
        if self.health.spike_to_roll_back is not None:
            self.rollbacks.decide(self.health.spike_to_roll_back)
        is_at_end = self.step >= self.config.training.steps
        if self.checkpointer.must_stop and not is_at_end:
            kept = describe_kept(Path(self.checkpointer.folder))
            raise StopRun(f"stopped after step {self.step} of {self.config.training.steps} on request; {kept}")
        if is_at_end and self.step == self.checkpointer.start.step:
            logger.info(f"All {counted(self.step, 'step')} are done. Raise training.target_tokens to train further.")
        if not self.checkpointer.must_stop:
            try:
                with ledger.part(VALIDATION):
                    self._begin_preference()
                    self._between_steps()
            except BoundsLeftError as breach:
                self._bounds_left(breach)
        if is_at_end:
            ledger.settle_in(IDLE)  # waiting for other ranks, uploads and exports
        return super().should_continue_training()

    def _bounds_left(self, breach: BoundsLeftError) -> NoReturn:
        """Go back with a lower rate, or end the run; on all ranks alike."""
        self.rollbacks.lower_rate(breach, self.checkpointer.last_good(breach.within_step))

    def _begin_preference(self) -> None:
        """The reference's log-probabilities, before the first step of this process; a branch finds them in the folder
        of its run."""
        if self.preference is None:
            return
        folders, start = [Path(self.config.dump_folder)], self.checkpointer.start
        if start.checkpoint is not None:
            folders.append(start.checkpoint.parents[1])
        self.preference.begin(self.step, folders, str(start))

    def _between_steps(self) -> None:
        """What callbacks do between steps, which leaves the state of training as it is."""
        for callback in self.callbacks:
            callback.step_boundary(self.step)
        for part in self.model_parts:
            if isinstance(part, FSDPModule):
                part.reshard()
        self.hangs.heartbeat.mark(self.step)

    def validation_losses(self, batches: Sequence[Batch], pairs: str) -> None:
        """Losses over batches of the validation set named `pairs`, left in the group sums."""
        if self.preference is not None:
            self.preference.set_reference(batches[0], pairs)
        self.forward_passes.losses(batches)

    def forward_backward_step(self, **batch: Any) -> torch.Tensor:
        """One microbatch: gradients of frozen parameters are dropped; after the last one the guard judges the step.

        A loss that is not finite is returned as 0: TorchTitan would end the run over it, after the update.
        """
        self._num_microbatches += 1
        number, total = self._num_microbatches, self.gradient_accumulation_steps
        if self.preference is not None:
            inputs, labels_BL = batch["input_dict"], batch["labels"]
            self.preference.set_reference((inputs, labels_BL), TRAINING_PAIRS)
            batch["input_dict"] = {name: tensor for name, tensor in inputs.items() if name != ANSWERS}
        self.hangs.heartbeat.mark(self.step, f"forward and backward of microbatch {number} of {total}")
        with record_function(PASS_SPAN):
            loss = super().forward_backward_step(**batch).detach()
        self.optimizers.drop_frozen_gradients()
        if not self.parallel_dims.pp_enabled or self.pp_has_last_stage:
            self.guard.add_loss(loss)
        if number == total:
            self.hangs.heartbeat.mark(self.step, "gradient norm and update")
            self.guard.judge(self.step, (p for part in self.model_parts for p in part.parameters()))
            self.tensor_norms.gradients_complete(self.step)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """One optimizer step; an error in it is reported with rank, step and slots."""
        if self.rollbacks.skips(self.step):
            self._skip_batches(data_iterator)
            return
        if not self.has_trained:
            ledger.settle_in(UNCLASSIFIED)  # which ends the start
        with ledger.part(STEP):
            self._train_step(data_iterator)
        self.has_trained = True
        ledger.step_ended(self.step)
        self.hangs.step_ended(self.config.comm.train_timeout_seconds)
        self.metrics_processor.step_done(self.step)
        if self.preference is not None:
            try:
                self.preference.end_if_adrift(self.step, self.config.speech.metrics.log_every_steps)
            except BoundsLeftError as breach:
                self._bounds_left(breach)

    def _train_step(self, data_iterator: Iterator[Batch]) -> None:
        self._num_microbatches = 0
        self.hangs.heartbeat.mark(self.step, "reading the batches")
        self.optimizers.begin_step(self.step - 1)  # TorchTitan counts steps from 1
        try:
            if self.preference is not None:
                data_iterator = self.preference.read_step(data_iterator, self.dataloader.shape.num_microbatches)
            with self.tensor_norms.step(self.step):
                super().train_step(data_iterator)
            self.health.observe(self.guard.readings())
        except Exception as raised:
            if is_of_a_collective(raised):
                self.hangs.exit(raised)
            error = worker_error(raised) or raised
            slots = self.config.plan.phase.slots(self.step - 1)  # TorchTitan counts steps from 1
            where = f"rank {torch.distributed.get_rank()}, step {self.step}, slots {slots[0]} to {slots[-1]}"
            error.add_note(f"titan_speech: at {where}")
            logger.error(f"Training failed at {where}: {type(error).__name__}: {error}")
            if error is raised:
                raise
            raise error from None

    def _skip_batches(self, data_iterator: Iterator[Batch]) -> None:
        """Read the step's batches without training on them; the learning-rate schedule advances as in any step."""
        for _ in range(self.dataloader.shape.num_microbatches):
            next(data_iterator)
        self.lr_schedulers.step()
        self.health.skipped_by_rollback(self.step)

    def train(self) -> None:
        """TorchTitan's loop; a collective that fails in a load or a save ends the rank as one in a step does.

        Signals request a save only with checkpoints enabled; otherwise they end the process as usual.
        """
        if self.checkpointer.enable:
            StopSignals(
                self.config.speech.health.stop_within_sec,
                partial(self.checkpointer.request_save, stop=True),  # other ranks learn of it at a step boundary
                lambda: describe_kept(Path(self.checkpointer.folder)),
            ).listen()
        self.hangs.begin(self.config.comm.init_timeout_seconds, f"loading {self.checkpointer.start}")
        try:
            super().train()
        except (Exception, CheckpointException) as error:
            if is_of_a_collective(error):
                self.hangs.exit(error)
            raise

    def state_dict(self) -> dict[str, Any]:
        """The step, from which the tokens seen follow at any world size, and the steps skipped up to it."""
        health = self._settled_health().state
        return {"step": self.step, "health": health.to_json(), "rollbacks": self.rollbacks.to_json()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        self.health.restore(HealthState.from_json(state_dict["health"]))
        self.rollbacks.restore(state_dict["rollbacks"])
        self._use_rate_of_rollbacks()

    def _use_rate_of_rollbacks(self) -> None:
        """Train with the rate that breaches have left of the schedule's; checkpoints record it for the next stage."""
        factor, checkpointer = self.rollbacks.lr_factor, self.checkpointer
        self.lr_schedulers.scale(factor)
        checkpointer.provenance = replace(checkpointer.provenance, rate_factor=factor)

    def close(self) -> None:
        """Close the dataloader, and wait for the save that is being written."""
        ledger.settle_in(IDLE)
        self.dataloader.close()
        super().close()
        self.hangs.heartbeat.end()

    def finish(self, end: RunEnd) -> None:
        """Finish the callbacks, after `close`, which may complete one more checkpoint."""
        for callback in self.callbacks:
            callback.finish(end)
        ledger.close(end.value)
