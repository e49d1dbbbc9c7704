"""The training entry: `torchrun --nproc_per_node N -m titan_speech.train --job.config_file train_configs/demo.toml`.

In: a TOML file and overrides. Out: a run folder with the resolved configuration, metrics.jsonl and checkpoints.
Everything that can be wrong with the configuration or the stores is found before a process group exists, and said
once, by rank 0, without a traceback.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from titan_speech.config.budget import Budget, describe_budget
from titan_speech.config.load import LoadedConfig
from titan_speech.config.schema_training import INITIAL_FLAVOR
from titan_speech.distributed.rendezvous import use_fresh_store_after_restart
from titan_speech.errors import ConfigError, HealthError, TitanSpeechError
from titan_speech.health.signals import EXIT_BAD_INPUT, EXIT_RESTART, EXIT_UNHEALTHY, StopRun
from titan_speech.preflight.config_checks import load_config
from titan_speech.preflight.machine_checks import check_folders_exist
from titan_speech.utils.locks import release_run_locks
from titan_speech.utils.logging import silence_library_warnings

if TYPE_CHECKING:
    from titan_speech.checkpoint.provenance import Provenance
    from titan_speech.checkpoint.start import Start
    from titan_speech.config.schema import SpeechConfig
    from titan_speech.config.schema_training import ModelConfig
    from titan_speech.data.plan import DataPlan
    from titan_speech.model.backbones import BackboneShape
    from titan_speech.tokenization.prompt_template import Grammar
    from titan_speech.trainer import SpeechTrainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; 0 when it finished, else a code of `titan_speech.health.signals`."""
    _stand_alone_defaults()
    try:
        trainer = prepare(list(sys.argv[1:] if argv is None else argv))
        run(trainer)
    except StopRun as leave:
        if os.environ["RANK"] == "0":
            print(f"titan_speech: {leave.reason}", file=sys.stderr, flush=True)
        return EXIT_RESTART
    except TitanSpeechError as error:
        if os.environ["RANK"] == "0":
            print(f"titan_speech: {error}", file=sys.stderr, flush=True)
        return EXIT_UNHEALTHY if isinstance(error, HealthError) else EXIT_BAD_INPUT
    finally:
        release_run_locks()
    return 0


def prepare(argv: list[str]) -> SpeechTrainer:
    """Check everything, say what the run will do, and build the trainer."""
    world_size = int(os.environ["WORLD_SIZE"])
    loaded = load_config(argv, world_size=world_size, checks=(check_folders_exist,))
    silence_library_warnings()

    import torch

    if not torch.cuda.is_available():
        from titan_speech.utils import cpu

        cpu.prepare()
    from torchtitan.observability import structured_logger
    from torchtitan.tools.logging import init_logger

    from titan_speech.checkpoint.initial_load import with_continued_data
    from titan_speech.data.plan import DataPlan
    from titan_speech.hf.initial import extended_initial, model_shape
    from titan_speech.tokenization.prompt_template import Grammar
    from titan_speech.tokenization.text_tokenizer import TextTokenizer
    from titan_speech.trainer_config import trainer_config

    init_logger()
    _only_rank_0_informs()
    use_fresh_store_after_restart()
    budget = Budget.from_config(loaded.config)
    tokenizer = TextTokenizer.load(loaded.config.tokenizer.path)
    grammar = Grammar(tokenizer.vocabulary())
    shape = model_shape(_model_of_stage(loaded.config))
    provenance = _provenance(loaded, grammar, world_size, shape)
    folder = Path(loaded.config.job.dump_folder)
    start, provenance = _start(loaded.config, provenance, budget)
    planned = with_continued_data(loaded.config, start)
    plan = DataPlan.from_config(planned, grammar, tokenizer, resumed=start.phase_end())
    provenance = replace(provenance, plan=plan.fingerprint, stores=plan.store_fingerprints)
    hf_initial = None
    if loaded.config.model.initial and start.checkpoint is None:
        hf_initial, record = extended_initial(loaded.config.model, plan.vocabulary, folder)
        provenance = replace(provenance, initial=str(record))
        start = replace(start, checkpoint=hf_initial)
    config = trainer_config(
        loaded.config,
        plan=plan,
        budget=budget,
        tokenizer=tokenizer,
        provenance=provenance,
        world_size=world_size,
        shape=shape,
        start=start,
        hf_initial=hf_initial,
    )
    structured_logger.init_structured_logger(source="training", output_dir=loaded.config.job.dump_folder, enable=False)
    if os.environ["RANK"] == "0":
        _open_run_folder(loaded, plan, world_size)
        print(f"first weights: {provenance.initial or 'of no backbone'}", flush=True)
    trainer = config.build()
    return trainer


def _model_of_stage(config: SpeechConfig) -> ModelConfig:
    """A stage with a flavor of its own needs nothing of the folder its first weights came from."""
    is_first = not config.stage.from_ or config.model.flavor == INITIAL_FLAVOR
    return config.model if is_first else replace(config.model, initial="")


def _start(config: SpeechConfig, provenance: Provenance, budget: Budget) -> tuple[Start, Provenance]:
    """What the run starts from, and the provenance that inherits from it; what its rates do is told."""
    from titan_speech.checkpoint.initial_load import choose_initial_load, on_this_machine, schedule_change
    from titan_speech.checkpoint.provenance import read_provenance
    from titan_speech.checkpoint.resume import open_checkpoints
    from titan_speech.distributed.consensus import decide_on_rank_0

    start = open_checkpoints(config, provenance)
    notes: tuple[str, ...] = ()
    if start.checkpoint is None and config.stage.from_ and not config.checkpoint.create_seed_checkpoint:
        handed = decide_on_rank_0("hand-over", lambda: choose_initial_load(config, provenance, budget))
        start, notes = on_this_machine(config, handed.start), handed.notes
        provenance = replace(provenance, stage_from=str(start.checkpoint))
    found = read_provenance(start.checkpoint) if start.checkpoint else None
    if start.is_resume and found is not None:
        notes = (schedule_change(budget, found.budget, start.step),)
    for note in notes:
        if note and os.environ["RANK"] == "0":
            logging.getLogger().warning(note)
    return start, provenance.inheriting(found)


def run(trainer: SpeechTrainer) -> None:
    """Train to the end, or write the seed checkpoint; the process group is left in order, then uploads end."""
    import torch

    left: StopRun | None = None
    try:
        try:
            if trainer.config.checkpoint.create_seed_checkpoint:
                trainer.checkpointer.save(curr_step=0, last_step=True)
            else:
                trainer.train()
        except StopRun as leave:
            left = leave
        finally:
            trainer.close()
    except BaseException:
        trainer.finish_milestones(wait=False)
        raise
    torch.distributed.destroy_process_group()
    is_over = left is None and not trainer.checkpointer.must_stop
    trainer.finish_milestones(wait=is_over)
    trainer.finish_uploads(is_over=is_over)
    if left is not None:
        raise left


def _provenance(loaded: LoadedConfig, grammar: Grammar, world_size: int, shape: BackboneShape) -> Provenance:
    """All of it but the data plan, which depends on the checkpoint that is gone on from."""
    from titan_speech.checkpoint.provenance import Provenance, git_revision, layout, package_versions, source_revision
    from titan_speech.config.resolved import resolved_toml

    model = loaded.config.model
    return Provenance(
        vocabulary=grammar.vocabulary.fingerprint,
        grammar=grammar.fingerprint,
        model=f"{model.family} {model.flavor}",
        global_batch_tokens=loaded.config.training.global_batch_tokens,
        versions=package_versions(),
        git_revision=git_revision(Path.cwd()),
        source_revision=source_revision(),
        world_size=world_size,
        layout=layout(loaded.config.parallelism, world_size),
        config=resolved_toml(loaded),
        backbone=shape,
        budget=Budget.from_config(loaded.config),
    )


def _open_run_folder(loaded: LoadedConfig, plan: DataPlan, world_size: int) -> None:
    """Save the resolved configuration and print what the run will do."""
    from titan_speech.config.resolved import save_resolved
    from titan_speech.data.phase_files import write_phases
    from titan_speech.preflight.compatibility import Composition, describe_composition

    folder = Path(loaded.config.job.dump_folder)
    try:
        save_resolved(loaded, folder)
        write_phases(folder, plan.phases)
    except OSError as error:
        raise ConfigError(
            f"job.dump_folder = {str(folder)!r} cannot be written: {error}; give a folder this user can write to"
        ) from error
    print(plan.describe(), flush=True)
    print(f"composition: {describe_composition(Composition.of(loaded.config))}", flush=True)
    print(describe_budget(loaded.config, world_size), flush=True)


def _only_rank_0_informs() -> None:
    """Other ranks say only what is wrong: every line of information would come once a rank."""
    if os.environ["RANK"] != "0":
        logging.getLogger().setLevel(logging.WARNING)


def _stand_alone_defaults() -> None:
    """Started without torchrun, the process is a world of one."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


if __name__ == "__main__":
    sys.exit(main())
