"""SpeechTrainer: TorchTitan's trainer with speech data, grouped losses and a start that is always announced.

In: `SpeechTrainer.Config` (see `titan_speech.trainer_config`). Out: a trained, checkpointed run whose figures lie in
metrics.jsonl. The loop, the parallelism and the checkpoints are TorchTitan's; only its documented seams are used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.protocols import BaseModel
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from titan_speech.checkpoint.manager import SpeechCheckpointManager
from titan_speech.checkpoint.upload.of_run import start_uploads
from titan_speech.config.budget import Budget
from titan_speech.config.tables import SpeechConfig
from titan_speech.data.loader import SpeechDataLoader
from titan_speech.data.plan import DataPlan
from titan_speech.objective import GroupedCrossEntropy
from titan_speech.observe.counters import count_batch
from titan_speech.observe.groups import StreamKey
from titan_speech.observe.metrics import FlopsPerToken, RunFacts, SpeechMetricsProcessor
from titan_speech.optimizer import SpeechOptimizers

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

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loss = cast(GroupedCrossEntropy, cast(ChunkedLossWrapper, self.loss_fn).loss_fn)
        loss.groups.keep_in(self.model_parts[-1], self.device)
        self.uploads = start_uploads(config.speech, self.checkpointer.disks) if self.checkpointer.enable else None
        if self.uploads is not None:
            self.metrics_processor.sources.append(self.uploads.figures)
        self.metrics_processor.attach(self._facts(), loss.groups, self.device)

    def _facts(self) -> RunFacts:
        config = self.config
        return RunFacts(
            streams=[StreamKey(s.source, s.language, s.task) for s in config.plan.streams],
            seq_len=config.training.seq_len,
            num_steps=config.budget.num_steps,
            global_batch_tokens=config.speech.training.global_batch_tokens,
            flops=self._flops_per_token(),
            has_loss=not self.parallel_dims.pp_enabled or self.pp_has_last_stage,
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
        for inputs, labels_BL in super().batch_generator(data_iterable):
            metrics.counts += count_batch(inputs["input"], inputs["positions"], labels_BL, vocabulary)
            yield inputs, labels_BL

    def should_continue_training(self) -> bool:
        """False at once for a run that is at its end already, which is then said, and where a stop was asked for."""
        if self.checkpointer.must_stop:
            logger.info(f"Training stops at step {self.step}, as was asked for.")
            return False
        if self.step >= self.config.training.steps and self.step == self.checkpointer.start.step:
            logger.info(f"Step {self.step} was the last already. Raise training.target_tokens to go on.")
        return super().should_continue_training()

    def train_step(self, data_iterator: Iterator[Batch]) -> None:
        """One optimizer step; whatever goes wrong in it names rank, step and slots."""
        self.optimizers.begin_step(self.step - 1)  # TorchTitan counts steps from 1
        try:
            super().train_step(data_iterator)
        except Exception as error:
            slots = self.config.plan.phase.slots(self.step - 1)  # TorchTitan counts steps from 1
            where = f"rank {torch.distributed.get_rank()}, step {self.step}, slots {slots[0]} to {slots[-1]}"
            error.add_note(f"titan_speech: at {where}")
            logger.error(f"Training failed at {where}: {type(error).__name__}: {error}")
            raise

    def forward_backward_step(self, **batch: Any) -> torch.Tensor:
        """TorchTitan's; gradients of what is frozen are dropped before they are clipped."""
        loss = super().forward_backward_step(**batch)
        self.optimizers.drop_frozen_gradients()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The step; tokens seen follow from it, at any world size."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]

    def close(self) -> None:
        """Also stops reading ahead; the checkpoint manager waits for a save that is still being written."""
        if isinstance(getattr(self, "dataloader", None), SpeechDataLoader):
            self.dataloader.close()
        super().close()

    def finish_uploads(self) -> None:
        """Waits until every checkpoint is at its address, or says which are not; a run that was stopped waits less."""
        if self.uploads is not None:
            limits = self.config.speech.upload
            outcome = self.uploads.finish(limits.stop_sec if self.checkpointer.must_stop else limits.finish_sec)
            logger.log(logging.INFO if outcome.is_all else logging.WARNING, str(outcome))
