"""From a checked configuration to a trainer that is ready to train.

In: the configuration. Out: a `SpeechTrainer`, in four steps:

    load          -> tokenizer, prompt templates, shape of the backbone
    choose start  -> the checkpoint to resume from, the previous stage's to load, or random initialization
    plan data     -> which packs every step reads, from the read positions of the start
    build         -> the trainer, with the run folder, the log and the ledger open

Everything that can be wrong with the stores or the checkpoints is found before TorchTitan is imported, which takes
seconds, and before a process group exists.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from titan_speech.checkpoint.choose_start import Start
from titan_speech.checkpoint.initial_load import (
    InitialLoad,
    base_to_resume_with,
    choose_initial_load,
    on_this_machine,
    schedule_change,
    with_continued_data,
)
from titan_speech.checkpoint.lora_base import Base, open_base
from titan_speech.checkpoint.open_run import open_checkpoints
from titan_speech.checkpoint.provenance import (
    Provenance,
    git_revision,
    layout,
    package_versions,
    read_provenance,
    source_revision,
)
from titan_speech.config.budget import Budget
from titan_speech.config.load import LoadedConfig
from titan_speech.config.resolved import resolved_toml, save_resolved
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.generation_prompts import generation_prompts
from titan_speech.data.phase_files import write_phases
from titan_speech.data.plan import DataPlan
from titan_speech.data.validation_set import ValidationSet, open_validation_sets
from titan_speech.distributed.consensus import StartupConsensus
from titan_speech.distributed.environment import dist_env
from titan_speech.distributed.last_words import say_on_rank_0
from titan_speech.distributed.rendezvous import use_fresh_store_after_restart
from titan_speech.errors import CheckpointError, ConfigError
from titan_speech.hf.config_json import model_of_stage, model_shape
from titan_speech.hf.extended_backbone import INITIAL_DIR, extended_initial
from titan_speech.ledger.clock import watch_compilation
from titan_speech.ledger.file import ledger, next_start
from titan_speech.model.backbones import BackboneShape
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer
from titan_speech.utils import cpu
from titan_speech.utils.logging import PRINTED, RunLog, rank_log

if TYPE_CHECKING:
    from titan_speech.trainer import SpeechTrainer


def prepare(loaded: LoadedConfig, held: ExitStack, log: RunLog) -> SpeechTrainer:
    """Check everything else, print what the run will do, and build the trainer.

    Args:
        loaded: the checked configuration.
        held: keeps the lock of the run folder.
        log: goes to a file once the run folder may be written to.
    """
    job = _job(loaded)
    say_on_rank_0("torch is loaded, opening checkpoints and stores")
    start = _choose_start(job, held)
    plan = _plan_data(job, start)
    say_on_rank_0("the data is planned, loading TorchTitan")
    return _build(job, start, plan, log)


@dataclass(frozen=True)
class _Job:
    """What is known of a run before its checkpoints and stores are opened."""

    loaded: LoadedConfig
    world_size: int
    budget: Budget
    tokenizer: TextTokenizer
    grammar: Grammar
    shape: BackboneShape
    identity: Provenance
    """The fields that a checkpoint must agree with; `_provenance` adds the others."""
    consensus: StartupConsensus
    """What rank 0 decides, until the process group exists."""

    @property
    def config(self) -> SpeechConfig:
        return self.loaded.config

    @property
    def run_folder(self) -> Path:
        return Path(self.config.job.dump_folder)


def _job(loaded: LoadedConfig) -> _Job:
    """The tokenizer and the shape of the backbone of a checked configuration."""
    if not torch.cuda.is_available():
        cpu.prepare()
    config = loaded.config
    timeout = timedelta(seconds=config.comm.init_timeout_seconds)
    consensus = StartupConsensus(use_fresh_store_after_restart(), timeout)
    tokenizer = TextTokenizer.load(config.tokenizer.path)
    grammar = Grammar(tokenizer.vocabulary())
    return _Job(
        loaded=loaded,
        world_size=dist_env().world_size,
        budget=Budget.from_config(config),
        tokenizer=tokenizer,
        grammar=grammar,
        shape=model_shape(model_of_stage(config)),
        identity=Provenance(
            vocabulary=grammar.vocabulary.fingerprint,
            older_vocabularies=grammar.vocabulary.older_fingerprints,
            grammar=grammar.fingerprint,
            model=f"{config.model.family} {config.model.flavor}",
            global_batch_tokens=config.training.global_batch_tokens,
            lora=str(config.lora),
        ),
        consensus=consensus,
    )


def _choose_start(job: _Job, held: ExitStack) -> Start:
    """What the run starts from; rank 0 warns when the learning rate would change or rise.

    Raises:
        CheckpointError: the checkpoint to start from is missing, damaged or of another run.
    """
    config = job.config
    start = open_checkpoints(config, job.identity, job.consensus, held)
    notes: tuple[str, ...] = ()
    if start.checkpoint is None and config.stage.from_ and not config.checkpoint.create_seed_checkpoint:
        load = job.consensus.decide_on_rank_0(
            "initial load", lambda: choose_initial_load(config, job.identity, job.budget), InitialLoad, Start
        )
        start, notes = on_this_machine(config, load.start), load.notes
    elif start.is_resume and start.checkpoint is not None and (found := read_provenance(start.checkpoint)):
        now = job.budget.scaled(found.rate_factor)
        notes = (schedule_change(now, found.trained_budget, start.step),)
    for note in notes:
        if note and dist_env().is_first:
            logging.getLogger().warning(note)
    return start


def _plan_data(job: _Job, start: Start) -> DataPlan:
    """Open the stores and plan which packs each step reads."""
    config = with_continued_data(job.config, start)
    return DataPlan.from_config(config, job.grammar, job.tokenizer, resumed=start.phase_end())


def _build(job: _Job, start: Start, plan: DataPlan, log: RunLog) -> SpeechTrainer:
    """Extend the vocabulary of the initial weights where the run starts from them, and build the trainer."""
    from titan_speech.trainer_config import trainer_config
    from titan_speech.training.spans import begin_spans

    validation_sets = open_validation_sets(job.config, plan, job.tokenizer)
    hf_initial, initial = None, ""
    if job.config.model.initial and start.checkpoint is None:
        hf_initial, record = extended_initial(job.config.model, plan.vocabulary, job.run_folder, job.consensus)
        initial = str(record)
    base = _base_of_adapter(job, start, hf_initial) if job.config.lora.is_on else None
    provenance = _provenance(job, start, plan, initial, base)
    config = trainer_config(
        job.config,
        plan=plan,
        validation_sets=validation_sets,
        generation_prompts=generation_prompts(job.config, plan),
        budget=job.budget,
        tokenizer=job.tokenizer,
        provenance=provenance,
        world_size=job.world_size,
        shape=job.shape,
        start=replace(start, checkpoint=hf_initial) if hf_initial else start,
        hf_initial=hf_initial,
        base=base,
    )
    _open_run_folder(job, plan, log)
    begin_spans(job.run_folder, enable=job.config.profiler.spans)
    ledger.open(
        job.run_folder,
        rank=dist_env().rank,
        start=job.consensus.decide_on_rank_0("ledger", lambda: next_start(job.run_folder)),
        world_size=job.world_size,
        from_step=max(start.step, 0),
    )
    watch_compilation(ledger)
    if job.world_size > 1 and not torch.cuda.is_available():
        ledger.split_waits()
    if dist_env().is_first:
        _print_start(job, plan, validation_sets, start, initial)
    return config.build()


def _base_of_adapter(job: _Job, start: Start, hf_initial: Path | None) -> Base:
    """The frozen weights of a LoRA run: what it starts from, or what its checkpoint was trained on.

    Raises:
        CheckpointError: the weights are missing, or not those that the adapter was trained on.
    """

    def decide() -> Base:
        if start.is_resume and start.checkpoint is not None:
            return base_to_resume_with(job.config, start.checkpoint, job.run_folder / INITIAL_DIR)
        weights = hf_initial or start.checkpoint
        if weights is None:
            raise CheckpointError("a LoRA run has nothing to start from; give stage.from or model.initial")
        return open_base(weights.absolute())

    base = job.consensus.decide_on_rank_0("base", decide, Base)
    return base if start.is_resume or start.checkpoint is None else replace(base, path=start.checkpoint.absolute())


def _provenance(job: _Job, start: Start, plan: DataPlan, initial: str, base: Base | None) -> Provenance:
    """What the checkpoints of the run will record of how they were made."""
    return replace(
        job.identity,
        plan=plan.fingerprint,
        stores=plan.store_fingerprints,
        versions=package_versions(),
        git_revision=git_revision(Path.cwd()),
        source_revision=source_revision(),
        world_size=job.world_size,
        layout=layout(job.config.parallelism, job.world_size),
        backbone=job.shape,
        initial=initial,
        config=resolved_toml(job.loaded),
        base=str(base.path) if base else "",
        base_fingerprint=base.fingerprint if base else "",
        stage_from=str(start.checkpoint) if start.is_from_previous_stage else "",
        budget=job.budget,
    ).inheriting(read_provenance(start.checkpoint) if start.checkpoint else None)


def _open_run_folder(job: _Job, plan: DataPlan, log: RunLog) -> None:
    """Open this rank's log; on rank 0 save the resolved configuration and the phases.

    Raises:
        ConfigError: the run folder cannot be written.
    """
    folder = job.run_folder
    try:
        if dist_env().is_first:
            save_resolved(job.loaded, folder)
            write_phases(folder, plan.phases)
        log.open(rank_log(folder, dist_env().rank))
    except OSError as error:
        raise ConfigError(
            f"job.dump_folder = {str(folder)!r} cannot be written: {error}; give a folder this user can write to"
        ) from error


def _print_start(
    job: _Job, plan: DataPlan, validation_sets: Sequence[ValidationSet], start: Start, initial: str
) -> None:
    """The start block; the data by language is in the log only."""
    from titan_speech.training.console import RunConsole
    from titan_speech.training.run_report import StartFacts, start_lines

    facts = StartFacts(
        files=job.loaded.files,
        start=f"the weights of {job.config.model.initial}: {initial}" if initial else str(start),
        is_resume=start.is_resume and not start.is_branch,
        shape=job.shape,
        world_size=job.world_size,
        log=rank_log(job.run_folder, 0),
    )
    logging.getLogger(__name__).info(plan.describe(), extra=PRINTED)
    RunConsole(0).print([*start_lines(job.config, plan, facts), *(some.describe() for some in validation_sets)])
