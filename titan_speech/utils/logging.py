"""What of the log a person sees: our own messages on the terminal, everything in a file per rank.

In: a process that has not logged anything yet. Out: filters on the loggers and warnings of torch, torchao, torchdata,
torchtitan and botocore that no user can act on; for a run, a `RunLog`.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[1])
MAX_WAITING = 10_000
"""Log records."""
PRINTED = {"is_printed": True}
"""The `extra` of a record whose text is on the terminal already."""

HIDDEN_MESSAGES = (
    "Pipeline Parallel loss is not visible",
    "initial_load_model_only=True has no effect",
    "model.safetensors.index.json not found at hf_assets_path",
    "will be overridden to 3 based on job config",
)
"""TorchTitan's loss of a pipeline is visible on its last stage only, ours is summed over the stages; the others are
about settings that nobody has made: of loads, of saves in the format of Hugging Face, and of NCCL."""


def silence_library_warnings() -> None:
    """Install the filters. Call before the libraries are imported."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
    warnings.filterwarnings("ignore", message="To get the last learning rate computed by the scheduler")
    warnings.filterwarnings("ignore", message="DTensor random operators may not have complete support")
    logging.getLogger().addFilter(_is_shown)


def _is_shown(record: logging.LogRecord) -> bool:
    return not any(hidden in record.getMessage() for hidden in HIDDEN_MESSAGES)


def rank_log(run_folder: Path, rank: int) -> Path:
    """The file with everything that a rank logs."""
    return run_folder / "logs" / f"rank-{rank}.log"


class RunLog:
    """Where the log records of one rank go: all of them to a file, and those that matter to a person to the terminal.

    On the terminal are our own records (from INFO on rank 0, from WARNING on the first rank of another node) and errors
    of everybody on every rank; what the engine and libraries log, warnings included, is in the file only. Until the run
    folder may be written to, records for the file wait in memory.
    """

    def __init__(self, rank: int = 0, local_rank: int = 0) -> None:
        """Replaces the handlers of the root logger, and takes Python's warnings over."""
        self._root = logging.getLogger()
        self._waiting = logging.handlers.MemoryHandler(MAX_WAITING, flushLevel=logging.CRITICAL + 1)
        self._root.setLevel(logging.INFO)
        self._root.handlers[:] = [_TerminalHandler(rank, local_rank), self._waiting]
        logging.captureWarnings(True)
        logging.raiseExceptions = False  # W&B's own log would print two tracebacks per line that a full disk refuses
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own log, which no logger controls

    def open(self, path: Path) -> None:
        """Append what waited, and all further records, to a file.

        Raises:
            OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        file = LogFile(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._waiting.setTarget(file)
        self._waiting.close()  # flushes it
        self._root.removeHandler(self._waiting)
        self._root.addHandler(file)


class LogFile(logging.FileHandler):
    """Appends records to a file, as well as it can."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk loses lines of the log; it neither stops training nor fills the terminal."""

    def close(self) -> None:
        with suppress(OSError):  # what a full disk did not take
            super().close()


class _TerminalHandler(logging.Handler):
    """Information to stdout, warnings and errors to stderr, as these are at that moment: the bar of a run takes them
    over to print above itself."""

    def __init__(self, rank: int, local_rank: int) -> None:
        super().__init__()
        self._rank = rank
        self._min_own_level = logging.INFO if rank == 0 else logging.WARNING if local_rank == 0 else logging.ERROR

    def emit(self, record: logging.LogRecord) -> None:
        is_ours = record.pathname.startswith(PACKAGE)
        if getattr(record, "is_printed", False):
            return
        if record.levelno < (self._min_own_level if is_ours else logging.ERROR):
            return
        where = f"rank {self._rank}: " if self._rank else ""
        name = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        trace = f"\n{logging.Formatter().formatException(record.exc_info)}" if record.exc_info else ""
        stream = sys.stdout if record.levelno == logging.INFO else sys.stderr
        with suppress(OSError):  # output to a disk that is full must not end a run
            print(f"{where}{name}{record.getMessage()}{trace}", file=stream, flush=True)
