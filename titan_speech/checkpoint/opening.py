"""A run takes its folder: locked, tidied up, and with a start that all ranks share.

In: the configuration and the provenance of this run. Out: what the run starts from. Rank 0 locks the run folder for
as long as its process lives, finishes or removes what killed saves left, fetches what is newer in object storage, and
chooses; the others are told, and fetch what their node lacks.
"""

from __future__ import annotations

import os
from pathlib import Path

from torchtitan.tools.logging import logger

from titan_speech.checkpoint.folder import recover
from titan_speech.checkpoint.lock import hold
from titan_speech.checkpoint.provenance import Provenance
from titan_speech.checkpoint.shared import decided_by_rank_0
from titan_speech.checkpoint.start import Start, choose_start
from titan_speech.checkpoint.upload.remote_start import on_this_node, with_local_start
from titan_speech.config.tables import SpeechConfig
from titan_speech.errors import ConfigError


def open_checkpoints(config: SpeechConfig, provenance: Provenance) -> Start:
    """The start of the run.

    Raises:
        CheckpointError: another job holds the folder, or what is asked for cannot be started from.
        DataError: object storage cannot be reached, and is needed.
        ConfigError: the run folder cannot be written.
    """
    run_folder = Path(config.job.dump_folder)
    folder = run_folder / config.checkpoint.folder

    def decide() -> Start:
        _lock(run_folder)
        _tidy(folder)
        return choose_start(with_local_start(config).checkpoint, folder, provenance)

    start = decided_by_rank_0("start", decide)
    if os.environ["LOCAL_RANK"] == "0" and os.environ["RANK"] != "0":
        _tidy(folder)  # a node with disks of its own; on a shared one nothing is left to do
    return on_this_node(config, start)


def _lock(run_folder: Path) -> None:
    try:
        hold(run_folder)
    except OSError as error:
        raise ConfigError(
            f"job.dump_folder = {str(run_folder)!r} cannot be written: {error}; give a folder this user can write to"
        ) from error


def _tidy(folder: Path) -> None:
    for done in recover(folder):
        logger.warning(f"{folder}: {done}.")
