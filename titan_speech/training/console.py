"""What rank 0 shows of a run: the start as one block, a line per log step with a bar below, and a closing summary.

In: the metrics of a log step, and lines of text. Out: on a terminal, aligned rows of at most 100 columns with a header
every 20 rows and a bar (rich); elsewhere the same rows without a bar and without control codes. Whatever else is
printed meanwhile appears above the bar. All of it is in the run's log file too. A row costs 0.1 ms, a step at most one
redraw in half a second, without a thread; metrics.jsonl has every value.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from titan_speech.training.loss import GroupLoss
from titan_speech.utils.logging import PRINTED
from titan_speech.utils.printable import printable, printable_stream, unescaped_stream
from titan_speech.utils.progress import RateEstimate, clock

CONSOLE_WIDTH = 100
ROWS_PER_HEADER = 20
REDRAW_SEC = 0.5
BAR_WIDTH = 36

logger = logging.getLogger(__name__)


class RunConsole:
    """The terminal, or the log that stands in for it, of one run; only rank 0 has one."""

    def __init__(self, table_every: int, file: TextIO | None = None) -> None:
        """
        Args:
            table_every: log steps between tables of the losses by group; 0: only the last one.
            file: where to print; None: stdout.
        """
        out = unescaped_stream(sys.stdout if file is None else file)
        self._rich = Console(file=out, force_terminal=out.isatty(), highlight=False, markup=False, emoji=False)
        self._table_every = table_every
        self._live: Live | None = None
        self._num_rows = 0
        self._losses: Mapping[str, GroupLoss] = {}
        self._has_table = True
        """Whether the losses of the last log step were shown by group."""
        self._step = self._num_steps = 0
        self._rate = RateEstimate(0)
        self._began_sec = time.monotonic()
        self._drawn_sec = 0.0
        self.memory_gib = 0.0
        """Peak of this process."""

    @property
    def elapsed_sec(self) -> float:
        return time.monotonic() - self._began_sec

    def print(self, lines: Sequence[str], style: str = "") -> None:
        """Print lines as they are, above the bar, and put them into the log file."""
        text = printable("\n".join(lines))
        with suppress(OSError):  # output to a disk that is full must not end a run
            self._rich.print(Text(text, style=style), soft_wrap=True)
        logger.info(text, extra=PRINTED)

    def begin(self, step: int, num_steps: int) -> None:
        """Show the bar, on a terminal; `step` steps are done."""
        self._step, self._num_steps = step, num_steps
        self._rate = RateEstimate(num_steps)
        self._began_sec = time.monotonic()
        if self._rich.is_terminal and not self._rich.is_dumb_terminal:
            self._live = Live(console=self._rich, auto_refresh=False, transient=True, get_renderable=self._bar)
            self._live.start(refresh=True)
            sys.stdout = printable_stream(sys.stdout)  # which the bar has replaced, until it ends
            self._rich.show_cursor()  # rich hides it, and it would stay hidden after a kill

    def step_done(self, step: int) -> None:
        """Move the bar, at most once in half a second."""
        self._step = step
        self._rate.update(step)
        if self._live is not None and time.monotonic() - self._drawn_sec > REDRAW_SEC:
            self._drawn_sec = time.monotonic()
            with suppress(OSError):
                self._live.refresh()

    def log_step(self, step: int, metrics: Mapping[str, Any], losses: Mapping[str, GroupLoss]) -> None:
        """Print the row of a log step, and every `table_every` rows the losses by group."""
        self._step, self._losses, self._has_table = step, losses, False
        self._rate.update(step)
        self.memory_gib = max(self.memory_gib, metrics["memory_peak_gib"])
        cells = self._cells(metrics)
        header, row = row_lines(cells)
        if self._num_rows % ROWS_PER_HEADER == 0:
            self.print([header], style="bold")
        self.print([row])
        self._num_rows += 1
        if self._table_every and self._num_rows % self._table_every == 0:
            self.show_groups()
            self._num_rows = 0  # the header follows again

    def _cells(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """The cells of a row by their titles."""
        left_sec = self._rate.left_sec
        mfu = {"MFU": f"{metrics['mfu']:.1%}"} if "mfu" in metrics else {}
        return {
            "step": f"{self._step:>{len(f'{self._num_steps:,}')},}",
            "loss": _number(metrics["loss"], 4),
            "LR": f"{metrics['lr']:.2e}",
            "grad norm": _number(metrics["grad_norm"], 3),
            "tokens/s/GPU": f"{metrics['tokens_per_sec_per_gpu']:,.0f}",
            **mfu,
            "data wait": f"{metrics['data_wait_fraction']:.1%}",
            "time left": "" if left_sec is None else clock(left_sec),
        }

    def show_groups(self) -> None:
        """Print the losses by group of the last log step, unless they were."""
        if not self._has_table and self._losses:
            self.print(["", f"  loss by group at step {self._step:,}", *group_lines(self._losses), ""])
        self._has_table = True

    def _bar(self) -> Table:
        left_sec, share = self._rate.left_sec, self._step / max(self._num_steps, 1)
        left = "" if left_sec is None else f"{clock(left_sec)} left"
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            ProgressBar(self._num_steps, self._step, width=BAR_WIDTH),
            f"{share:.0%}",
            f"step {self._step:,} of {self._num_steps:,}",
            f"{clock(self.elapsed_sec)} so far",
            left,
        )
        return grid

    def close(self) -> None:
        """Remove the bar; printing works as before."""
        if self._live is not None:
            self._live.stop()
            self._live = None


WIDTHS = {"loss": 8, "LR": 8, "MFU": 6}
"""Widths of columns that are wider than their titles."""


def row_lines(cells: Mapping[str, str]) -> tuple[str, str]:
    """The titles, and under them the cells, right-aligned."""
    widths = [max(len(title), WIDTHS.get(title, 0), len(cell)) for title, cell in cells.items()]
    rows = (zip(texts, widths, strict=True) for texts in (cells.keys(), cells.values()))
    header, row = ("  ".join(f"{text:>{width}}" for text, width in one).rstrip() for one in rows)
    return header, row


def group_lines(losses: Mapping[str, GroupLoss]) -> list[str]:
    """The losses of each kind of group, one kind per paragraph, in columns, within 100 characters."""
    kinds: dict[str, dict[str, str]] = {}
    for name, group in sorted(losses.items()):
        if name != "loss":
            _, kind, key = name.split("/", 2)
            kinds.setdefault(kind, {})[key] = _number(group.mean, 3)
    margin = max(map(len, kinds), default=0) + 6
    lines = []
    for kind, entries in kinds.items():
        name_width = min(max(map(len, entries)), CONSOLE_WIDTH - margin - 10)
        cells = [f"{key[:name_width]:<{name_width}} {value:>7}" for key, value in entries.items()]
        per_line = max(1, (CONSOLE_WIDTH - margin + 3) // (name_width + 11))
        for first in range(0, len(cells), per_line):
            head = f"    {kind}" if first == 0 else ""
            lines.append(f"{head:<{margin}}{'   '.join(cells[first : first + per_line])}".rstrip())
    return lines


def _number(value: float, digits: int) -> str:
    """A number that fits its column; every step of a log step without a finite loss was skipped."""
    if not math.isfinite(value):
        return "skipped" if math.isnan(value) else "inf"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.1e}"
