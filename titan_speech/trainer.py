"""SpeechTrainer: TorchTitan's trainer with speech data, grouped losses and a start that is always announced.

In: `SpeechTrainer.Config` (see `titan_speech.trainer_config`). Out: a trained, checkpointed run whose figures lie in
metrics.jsonl. The loop, the parallelism and the checkpoints are TorchTitan's; only its documented seams are used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.profiler import record_function
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.protocols import BaseModel
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from titan_speech.checkpoint.keeper import retention_policy
from titan_speech.checkpoint.manager import SpeechCheckpointManager
from titan_speech.checkpoint.upload.process import start_uploads
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.plan import DataPlan
from titan_speech.health.monitor import BatchFinder, HealthMonitor, HealthState
from titan_speech.health.rollback import Rollbacks
from titan_speech.health.signals import StopRun, StopSignals
from titan_speech.health.watchdog import HangReport, is_of_a_collective
from titan_speech.hf.export_on_save import MilestoneExporter, milestones
from titan_speech.training.loss import GroupedCrossEntropy, StreamKey
from titan_speech.training.metrics import FlopsPerToken, RunFacts, SpeechMetricsProcessor, count_batch
from titan_speech.training.optimizer import SpeechOptimizers, StepGuard
from titan_speech.training.profiler import DATA, PASS

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class SpeechTrainer(Trainer):
    """Trains one stage."""

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        speech: SpeechConfig
        budget: Budget
        plan: DataPlan

        def to_dict(self) -> dict[str, Any]:
            """What experiment trackers store: the resolved tables, nothing built from them."""
            return asdict(self.speech)

    config: Config
    metrics_processor: SpeechMetricsProcessor
    checkpointer: SpeechCheckpointManager
    optimizers: SpeechOptimizers
    dataloader: SpeechDataLoader

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loss = cast(GroupedCrossEntropy, cast(ChunkedLossWrapper, self.loss_fn).loss_fn)
        loss.groups.keep_in(self.model_parts[-1], self.device)
        self.uploads = start_uploads(config.speech, self.checkpointer.disks) if self.checkpointer.enable else None
        if self.uploads is not None:
            self.metrics_processor.sources.append(self.uploads.figures)
        self.guard = StepGuard(self.device, self.parallel_dims.tp, loss.groups)
        self.optimizers.guard = self.guard
        finder = BatchFinder(config.plan, self.dataloader.shape, self.parallel_dims.tp * self.parallel_dims.cp)
        self.health = HealthMonitor(
            config.speech.health,
            Path(config.dump_folder),
            finder,
            warmup_steps=config.budget.warmup_steps,
            is_first_rank=torch.distributed.get_rank() == 0,
        )
        self.hangs = HangReport(Path(config.dump_folder), finder.slots)
        self.rollbacks = Rollbacks(
            config.speech.health, Path(config.dump_folder), Path(config.dump_folder) / config.speech.checkpoint.folder
        )
        self.metrics_processor.sources.append(self._health_figures)
        self.metrics_processor.attach(self._facts(), loss.groups, self.device)
        self.milestones = self._milestone_exporter()

    def _milestone_exporter(self) -> MilestoneExporter | None:
        """On rank 0, told of each checkpoint; what an earlier start of the run left to do comes first."""
        table = self.config.speech.checkpoint
        is_on = table.enable and table.export_milestones and not table.create_seed_checkpoint
        if not is_on or torch.distributed.get_rank() != 0:
            return None
        exporter = MilestoneExporter(Path(self.config.dump_folder))
        folder, policy = Path(self.checkpointer.folder), retention_policy(table)
        exporter.add(milestones(folder, policy, self.checkpointer.start.step))
        self.checkpointer.on_complete.append(
            lambda checkpoint, commit: exporter.add(milestones(folder, policy, commit.step))
        )
        return exporter

    def _health_figures(self) -> dict[str, float]:
        """At a log step, which waits for the device anyway."""
        self.health.observe(self.guard.readings(settle=True))
        return self.health.figures(self.step)

    def _facts(self) -> RunFacts:
        config = self.config
        return RunFacts(
            streams=[StreamKey(s.source, s.language, s.task) for s in config.plan.streams],
            seq_len=config.training.seq_len,
            num_steps=config.budget.num_steps,
            global_batch_tokens=config.speech.training.global_batch_tokens,
            flops=self._flops_per_token(),
        )

    def _flops_per_token(self) -> FlopsPerToken:
        """TorchTitan's count is linear in the sequence length; two points give its parts.

        Of the whole model, built without memory: a pipeline's rank has a part of it.
        """
        with torch.device("meta"):
            model = cast(BaseModel, self.model_config.build())
        _, flops_at_1 = self.model_config.get_nparams_and_flops(model, 1)
        _, flops_at_2 = self.model_config.get_nparams_and_flops(model, 2)
        per_position = flops_at_2 - flops_at_1
        return FlopsPerToken(fixed=flops_at_1 - per_position, per_position=per_position)

    def batch_generator(self, data_iterable: Iterable[Batch]) -> Iterator[Batch]:
        """TorchTitan's generator, begun by the announcement, with each batch counted.

        A generator runs only when it is first asked, which is in the first step.
        """
        metrics = self.metrics_processor
        metrics.start_at(self.step - 1, str(self.checkpointer.start))
        vocabulary = self.config.plan.vocabulary
        batches = super().batch_generator(data_iterable)
        while True:
            with record_function(DATA):
                inputs, labels_BL = next(batches)
            metrics.counts += count_batch(inputs["input"], inputs["positions"], labels_BL, vocabulary)
            yield inputs, labels_BL

    def should_continue_training(self) -> bool:
        """False from the start for a run that is at its end already, which is then said.

        Raises, on all ranks alike:
            HealthError: too many steps were skipped, or a loss spike cannot be rolled back.
            LeaveRun: the run was asked to stop and is saved, or goes back to an earlier checkpoint.
        """
        self.health.end_if_due()
        if self.health.spike_to_roll_back is not None:
            self.rollbacks.decide(self.health.spike_to_roll_back)
        is_at_end = self.step >= self.config.training.steps
        if self.checkpointer.must_stop and not is_at_end:
            raise StopRun(f"stopped after step {self.step}, as was asked for; start again to go on")
        if is_at_end and self.step == self.checkpointer.start.step:
            logger.info(f"Step {self.step} was the last already. Raise training.target_tokens to go on.")
        return super().should_continue_training()

    def forward_backward_step(self, **batch: Any) -> torch.Tensor:
        """One microbatch; gradients of what is frozen are dropped, and after the step's last one the guard judges.

        TorchTitan gets no loss that is not finite: it would end the run, after the update.
        """
        self._num_microbatches += 1
        number, all_of_them = self._num_microbatches, self.gradient_accumulation_steps
        self.hangs.progress.mark(self.step, f"forward and backward of microbatch {number} of {all_of_them}")
        with record_function(PASS):
            loss = super().forward_backward_step(**batch).detach()
        self.optimizers.drop_frozen_gradients()
        if not self.parallel_dims.pp_enabled or self.pp_has_last_stage:
            self.guard.add_loss(loss)
        if number == all_of_them:
            self.hangs.progress.mark(self.step, "gradient norm and update")
            self.guard.judge(self.step, (p for part in self.model_parts for p in part.parameters()))
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """One optimizer step; whatever goes wrong in it names rank, step and slots."""
        if self.rollbacks.passes(self.step):
            self._pass_over(data_iterator)
            return
        self._num_microbatches = 0
        self.hangs.progress.mark(self.step, "reading the batches")
        self.optimizers.begin_step(self.step - 1)  # TorchTitan counts steps from 1
        try:
            super().train_step(data_iterator)
            self.health.observe(self.guard.readings())
        except Exception as error:
            if is_of_a_collective(error):
                self.hangs.leave(error)
            slots = self.config.plan.phase.slots(self.step - 1)  # TorchTitan counts steps from 1
            where = f"rank {torch.distributed.get_rank()}, step {self.step}, slots {slots[0]} to {slots[-1]}"
            error.add_note(f"titan_speech: at {where}")
            logger.error(f"Training failed at {where}: {type(error).__name__}: {error}")
            raise
        self.hangs.step_ended(self.config.comm.train_timeout_seconds)

    def _pass_over(self, data_iterator: Iterator[Batch]) -> None:
        """Read the step's batches and drop them; the schedule goes by steps, so it goes on."""
        counts = self.metrics_processor.counts
        for _ in range(self.dataloader.shape.num_microbatches):
            next(data_iterator)
        self.metrics_processor.counts = counts
        self.lr_schedulers.step()
        self.health.passed_over(self.step)

    def train(self) -> None:
        """TorchTitan's loop; a collective that fails outside a step, as in a save, ends the rank as one inside does.

        Without checkpoints there is nothing to save on a signal, and the process ends as any other.
        """
        if self.checkpointer.enable:
            StopSignals(self.config.speech.health.stop_within_sec, self._stop_on).listen()
        self.hangs.begin(self.config.comm.init_timeout_seconds)
        try:
            super().train()
        except Exception as error:
            if is_of_a_collective(error):
                self.hangs.leave(error)
            raise

    def _stop_on(self, signal_name: str) -> None:
        """From the thread that listens; the checkpoint manager tells the other ranks at the step boundary."""
        self.checkpointer.request_save(signal_name, stop=True)

    def state_dict(self) -> dict[str, Any]:
        """The step, from which tokens seen follow at any world size, and what was skipped up to it."""
        self.health.observe(self.guard.readings(settle=True))
        return {"step": self.step, "health": self.health.state.to_json(), "rollbacks": self.rollbacks.to_json()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        self.health.restore(HealthState.from_json(state_dict["health"]))
        self.rollbacks.restore(state_dict["rollbacks"])

    def close(self) -> None:
        """Also stops reading ahead; the checkpoint manager waits for a save that is still being written, and a rollback
        that was decided follows."""
        if isinstance(getattr(self, "dataloader", None), SpeechDataLoader):
            self.dataloader.close()
        super().close()
        self.hangs.progress.end()
        self.rollbacks.carry_out()

    def finish_uploads(self, *, is_over: bool) -> None:
        """Waits until every checkpoint is at its address, or says which are not; one that goes on later waits less."""
        if self.uploads is not None:
            limits = self.config.speech.upload
            outcome = self.uploads.finish(limits.finish_sec if is_over else limits.stop_sec)
            logger.log(logging.INFO if outcome.is_all else logging.WARNING, str(outcome))

    def finish_milestones(self, *, wait: bool) -> None:
        """After `close`, which may complete one more; a run that fails or was asked to stop does not wait for them."""
        if self.milestones is not None:
            self.milestones.drain() if wait else self.milestones.cancel_queued()
