"""The callbacks of a run: validation, generation checks, uploads of checkpoints, exports of milestones, its end.

In: the trainer, fully built. Out: the callbacks of this rank, in the order in which they are called. The trainer knows
none of them; what a callback does is next to what it is about (training/validation.py, generate/generation_check.py),
and here is what connects it to a run.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torchtitan.tools.logging import logger

from titan_speech.checkpoint.commit import Commit
from titan_speech.checkpoint.retention import RetentionPolicy
from titan_speech.checkpoint.upload.process import Uploader, start_uploads
from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.evaluate.models.isolation import IsolatedModel
from titan_speech.evaluate.models.voices import open_voice_encoder
from titan_speech.evaluate.scorers.voice import VoiceScorer
from titan_speech.generate.generation_check import GenerationCheck, Ranks
from titan_speech.generate.generation_check_sound import open_check_sound
from titan_speech.hf.export_on_save import MilestoneExporter, milestones
from titan_speech.trainer import SpeechTrainer
from titan_speech.training.callback import OutcomeCallback, RunCallback, RunEnd
from titan_speech.training.run_report import summary_lines
from titan_speech.training.validation import Validation
from titan_speech.utils.logging import rank_log


def build_callbacks(trainer: SpeechTrainer) -> list[RunCallback]:
    """The callbacks of this rank: validation and generation checks; exports (rank 0); uploads (one rank per node that
    has files to send); the outcome, and the closing summary (rank 0)."""
    config, manager = trainer.config.speech, trainer.checkpointer
    checkpoint, is_first_rank = config.checkpoint, torch.distributed.get_rank() == 0
    metrics_file = Path(trainer.config.dump_folder) / "metrics.jsonl"
    callbacks: list[RunCallback] = [
        Validation(
            trainer.config.validation_sets,
            trainer.config.plan,
            config.validation.every_steps,
            trainer.validation_losses,
            trainer.dataloader,
            trainer.metrics_processor,
            metrics_file,
            None if trainer.preference is None else trainer.preference.step_metrics,
        )
    ]
    if trainer.config.generation_prompts:
        callbacks.append(_generation_check(trainer, is_first_rank))
    if checkpoint.enable and checkpoint.export_milestones and not checkpoint.create_seed_checkpoint and is_first_rank:
        callbacks.append(MilestoneCallback(trainer))
    uploads = start_uploads(config, manager.ranks_seeing_rank_0) if manager.enable else None
    if uploads is not None:
        callbacks.append(UploadCallback(uploads, config.upload))
    callbacks.append(
        OutcomeCallback(
            trainer.metrics_processor.sinks,
            metrics_file,
            trainer.config.budget.num_steps,
            lambda: trainer.step,
            lambda: f"{trainer.rollbacks.decided}." if trainer.rollbacks.decided else "",
        )
    )
    if is_first_rank and not checkpoint.create_seed_checkpoint:
        callbacks.append(SummaryCallback(trainer))
    return callbacks


def _generation_check(trainer: SpeechTrainer, is_first_rank: bool) -> GenerationCheck:
    config, metrics, folder = trainer.config.speech, trainer.metrics_processor, Path(trainer.config.dump_folder)
    return GenerationCheck(
        config.generation_check,
        trainer.config.generation_prompts,
        trainer.config.plan.grammar,
        trainer.forward_passes.last_logits,
        metrics.log_between_steps,
        metrics.flag,
        metrics.log_samples,
        Ranks(trainer.dataloader.dp_rank, trainer.dataloader.shape.dp_degree, trainer.device),
        folder,
        trainer.config.budget.num_steps,
        open_check_sound(config, folder, _voice_scorer(config)) if is_first_rank else None,
    )


def _voice_scorer(config: SpeechConfig) -> VoiceScorer | None:
    """The speaker encoder, loaded in a process of its own, which draws no random numbers of the run; None without one.

    Raises:
        ModelError: it is not there, or cannot be loaded.
    """
    wanted = config.generation_check
    if not wanted.voice:
        return None
    longest_load_sec = config.comm.init_timeout_seconds  # other ranks wait for this one no longer
    encoder = IsolatedModel(open_voice_encoder(wanted.voice), wanted.max_sound_sec, longest_load_sec)
    encoder.load()
    return VoiceScorer(encoder)


class UploadCallback(RunCallback):
    """Uploads checkpoints in the background; the end of a run waits for what is not sent yet."""

    def __init__(self, uploads: Uploader, limits: UploadConfig) -> None:
        self.uploads, self.limits = uploads, limits

    def metrics(self) -> dict[str, float]:
        return self.uploads.figures()

    def finish(self, end: RunEnd) -> None:
        """Wait until every checkpoint is uploaded, or log which are not; a run that will be resumed waits less."""
        if end is RunEnd.FAILED:
            return
        outcome = self.uploads.finish(self.limits.finish_sec if end is RunEnd.COMPLETE else self.limits.stop_sec)
        logger.log(logging.INFO if outcome.is_all else logging.WARNING, str(outcome))


class MilestoneCallback(RunCallback):
    """Exports milestones as Hugging Face folders; those that an earlier start of the run left undone come first."""

    def __init__(self, trainer: SpeechTrainer) -> None:
        self.exporter = MilestoneExporter(Path(trainer.config.dump_folder))
        self.folder = Path(trainer.checkpointer.folder)
        self.policy = RetentionPolicy.from_config(trainer.config.speech.checkpoint)
        self.exporter.add(milestones(self.folder, self.policy, trainer.checkpointer.start.step))

    def checkpoint_complete(self, checkpoint: Path, commit: Commit) -> None:
        self.exporter.add(milestones(self.folder, self.policy, commit.step))

    def finish(self, end: RunEnd) -> None:
        """Wait for the exports of a complete run; others leave them to the next start."""
        if end is RunEnd.COMPLETE:
            self.exporter.drain()
        else:
            self.exporter.cancel_queued()


class SummaryCallback(RunCallback):
    """Prints the closing summary; the last callback, so that exports and uploads have ended."""

    def __init__(self, trainer: SpeechTrainer) -> None:
        self.trainer = trainer

    def finish(self, end: RunEnd) -> None:
        trainer, console = self.trainer, self.trainer.metrics_processor.console
        if console is None or end is RunEnd.FAILED:
            return
        console.show_groups()
        lines = summary_lines(
            trainer.config.speech,
            step=trainer.step,
            is_complete=end is RunEnd.COMPLETE,
            first_step=max(trainer.checkpointer.start.step, 0),
            elapsed_sec=console.elapsed_sec,
            memory_gib=console.memory_gib,
            log=rank_log(Path(trainer.config.dump_folder), 0),
        )
        console.print(lines)
