"""Warnings of the libraries that no user of this program can act on are hidden; everything about a run is shown.

In: a process that has not logged anything yet. Out: filters on the loggers and warnings of torch, torchao, torchdata,
torchtitan and botocore.
"""

from __future__ import annotations

import logging
import warnings

HIDDEN_MESSAGES = ("Pipeline Parallel loss is not visible", "initial_load_model_only=True has no effect")
"""TorchTitan's loss of a pipeline is visible on its last stage only, ours is summed over the stages; the second message
is about a setting that nobody has made."""


def silence_library_warnings() -> None:
    """Install the filters. Call before the libraries are imported."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
    warnings.filterwarnings("ignore", message="To get the last learning rate computed by the scheduler")
    warnings.filterwarnings("ignore", message="DTensor random operators may not have complete support")
    logging.getLogger().addFilter(_is_shown)


def _is_shown(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(hidden in message for hidden in HIDDEN_MESSAGES)
