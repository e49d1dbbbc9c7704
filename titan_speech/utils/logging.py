"""Notes of torch's companions on their own use of torch, which no user of this program can act on, are not shown.

In: a process in which nothing has spoken yet. Out: filters; what concerns a run is still said.
"""

from __future__ import annotations

import logging
import warnings


def quieten_dependencies() -> None:
    """Of torchao, torchdata, DTensor and botocore; called by whatever reads batches, before they are imported."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
    warnings.filterwarnings("ignore", message="To get the last learning rate computed by the scheduler")
    warnings.filterwarnings("ignore", message="DTensor random operators may not have complete support")
    logging.getLogger().addFilter(_is_of_use)


NOISY_LOGGERS = ("Pipeline Parallel loss is not visible", "initial_load_model_only=True has no effect")
"""TorchTitan's loss of a pipeline is seen on its last stage only, ours is added up over the stages; the other is of
a key that nobody has set."""


def _is_of_use(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(part in message for part in NOISY_LOGGERS)
