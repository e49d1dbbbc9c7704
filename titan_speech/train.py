"""One rank of a run: `titan-speech train` starts it, and so can torchrun or a scheduler of your own.

    torchrun --nproc-per-node N -m titan_speech.train --job.config_file train_configs/demo.toml

In: a TOML file and overrides. Out: a run folder with the resolved configuration, metrics.jsonl and checkpoints.

`load` checks the configuration, `prepare_run` makes a trainer of it, `run` trains to the end, and `main` gives each end
its message and its exit code: what is wrong with the configuration or the stores is reported once, by rank 0, without a
traceback.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NoReturn

from titan_speech.config.load import LoadedConfig
from titan_speech.distributed.environment import dist_env, set_single_process_defaults
from titan_speech.distributed.last_words import (
    LAUNCHER_VARIABLE,
    end,
    first_line,
    is_of_a_collective,
    resume_hint,
    say,
    say_on_rank_0,
    write_error_file,
)
from titan_speech.errors import HealthError, RendezvousError, TitanSpeechError
from titan_speech.exit_codes import EXIT_BAD_INPUT, EXIT_HUNG, EXIT_RESTART, EXIT_UNHEALTHY
from titan_speech.health.signals import StopRun, stop_with_launcher
from titan_speech.preflight.config_checks import load_config
from titan_speech.preflight.machine_checks import check_folders_exist
from titan_speech.utils.bus_errors import name_cut_files
from titan_speech.utils.files import use_umask
from titan_speech.utils.logging import PRINTED, RunLog, silence_library_warnings
from titan_speech.utils.machine_limits import FILES_OF_A_RUN, ensure_open_files
from titan_speech.utils.printable import make_log_records_printable, printable_stdout
from titan_speech.utils.text_table import counted

if TYPE_CHECKING:
    from titan_speech.trainer import SpeechTrainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage; 0 when it finished, else a code of `titan_speech.exit_codes`."""
    words = list(sys.argv[1:] if argv is None else argv)
    set_single_process_defaults()
    stop_with_launcher()
    make_log_records_printable()
    name_cut_files(EXIT_UNHEALTHY)
    log = RunLog(dist_env().rank, dist_env().local_rank)
    trainer: SpeechTrainer | None = None
    try:
        with printable_stdout(), ExitStack() as held:  # the lock of the run folder
            loaded = load(words)
            from titan_speech.prepare_run import prepare  # which imports torch: a configuration is refused without it

            trainer = prepare(loaded, held, log)
            run(trainer)
    except StopRun as stop:
        env = dist_env()
        hint = resume_hint(words, env.local_world_size, env.world_size // env.local_world_size)
        end(f"{stop.reason}. {hint}")
        return EXIT_RESTART
    except RendezvousError as error:
        say(str(error))
        return EXIT_HUNG
    except TitanSpeechError as error:
        end(str(error))
        has_trained = trainer is not None and trainer.has_trained
        # a check that the last step of an earlier start failed fails before the first step of this one
        return EXIT_UNHEALTHY if has_trained or isinstance(error, HealthError) else EXIT_BAD_INPUT
    except BaseException as error:  # torch's error of a checkpoint is no Exception
        if not is_of_a_collective(error):
            logging.getLogger(__name__).error("The run failed", exc_info=True, extra=PRINTED)  # Python prints it
            write_error_file(f"{type(error).__name__}: {error}", traceback.format_exc())
            raise
        _leave_after_lost_rank(error)
    return 0


def load(words: list[str]) -> LoadedConfig:
    """Load and check the configuration.

    Raises:
        ConfigError: it is wrong, or this machine does not suffice.
    """
    ensure_open_files(FILES_OF_A_RUN)
    world_size = dist_env().world_size
    loaded = load_config(words, world_size=world_size, checks=(check_folders_exist,))
    use_umask(loaded.config.job.umask)  # before the run writes anything
    if LAUNCHER_VARIABLE not in os.environ:  # titan-speech train has said it
        say_on_rank_0(f"{loaded.files[-1]} is sound; loading torch on {counted(world_size, 'rank')}")
    silence_library_warnings()
    return loaded


def _leave_after_lost_rank(error: BaseException) -> NoReturn:
    """End this process at once: closing what is half built waits for, or fails over, the rank that is lost."""
    what = f"rank {dist_env().rank} lost another rank during start-up or at the end"
    say(f"{what}: {first_line(error)}; start the same command again")
    os._exit(EXIT_HUNG)


def run(trainer: SpeechTrainer) -> None:
    """Train to the end, or write the seed checkpoint; then close the process group and finish uploads and exports.

    Raises:
        StopRun: the run was asked to stop and is saved, or goes back to an earlier checkpoint.
    """
    import torch

    from titan_speech.training.callback import RunEnd

    stop: StopRun | None = None
    try:
        try:
            if trainer.config.checkpoint.create_seed_checkpoint:
                trainer.checkpointer.save(curr_step=0, last_step=True)
            else:
                trainer.train()
        except StopRun as error:
            stop = error
        finally:
            trainer.close()
        trainer.rollbacks.carry_out()
    except BaseException:
        trainer.finish(RunEnd.FAILED)
        raise
    torch.distributed.destroy_process_group()
    trainer.finish(RunEnd.COMPLETE if stop is None and not trainer.checkpointer.must_stop else RunEnd.STOPPED)
    if stop is not None:
        raise stop


def leave(code: int) -> NoReturn:
    """End this process with what `atexit` knows of, but without taking the interpreter apart.

    Nothing is left to be written. Freeing modules and tensors one by one takes longer than the save of a small model:
    more than half of the time from the death of a launcher to the end of its ranks.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until training listens there is nothing to save, nor to trace back
    leave(main())
