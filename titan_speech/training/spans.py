"""TorchTitan's structured spans, and those of ours, in the span files of the run.

In: records of TorchTitan's structured logger: its own (fetching a batch, forward and backward, the optimizer, the step)
and ours through the same calls (validation, generation_check, checkpoint_stall, checkpoint_write, flagged). Out: one
line per span (ledger/span_file.py). The handler is registered as TorchTitan documents it, by the variable
TITAN_STRUCT_LOGGER_HANDLERS; its own handler writes two lines of 600 bytes per span and the name of the host, this one
100 bytes.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from torchtitan.observability import structured_logger

from titan_speech.ledger.span_file import Span, SpanFile, spans_file

HANDLERS_VARIABLE = "TITAN_STRUCT_LOGGER_HANDLERS"
OUR_HANDLER = f"{__name__}.register_span_handler"
START, END, ERROR = "_start", "_end", "_error"
STEP_END = "step" + END
FLUSH_SEC = 1.0


class SpanHandler(logging.Handler):
    """Keeps the spans of one process; writes them when a step has ended, or a second after the last time."""

    def __init__(self, file: SpanFile) -> None:
        super().__init__()
        self._file, self._flushed_sec = file, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        name = getattr(record, "log_type_name", None)
        is_moment = getattr(record, "log_type", "") == "instant"
        if name is None or name == "metric_value" or (not is_moment and not name.endswith(END)):
            return
        value, step = getattr(record, "value", None), structured_logger.get_step()
        sec = None if is_moment or value is None else float(value) / 1000
        label = name if is_moment else name.removesuffix(END)
        self._file.add(Span(label, record.created - (sec or 0.0), sec, record.threadName or "", step))
        if name == STEP_END or time.monotonic() - self._flushed_sec > FLUSH_SEC:
            self._flushed_sec = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        self._file.flush()
        super().close()


def register_span_handler(*, structured_logger: logging.Logger, rank: int, output_dir: str, **_: Any) -> None:
    """Called by TorchTitan for each name in TITAN_STRUCT_LOGGER_HANDLERS."""
    structured_logger.addHandler(SpanHandler(SpanFile(spans_file(Path(output_dir), f"rank-{rank}"))))


def begin_spans(run_folder: Path, *, enable: bool) -> None:
    """Begin to record, or make all of TorchTitan's calls do nothing; a handler that the user named stays."""
    if enable:
        os.environ[HANDLERS_VARIABLE] = ",".join(
            dict.fromkeys((*filter(None, os.environ.get(HANDLERS_VARIABLE, "").split(",")), OUR_HANDLER))
        )
    structured_logger.init_structured_logger(source="training", output_dir=str(run_folder), enable=enable)
