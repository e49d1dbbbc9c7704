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
    warnings.filterwarnings("ignore", message="DTensor random operators may not have complete support")
    logging.getLogger().addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    """TorchTitan's loss of a pipeline is seen on its last stage only; ours is added up over the stages."""
    return "Pipeline Parallel loss is not visible" not in record.getMessage()
