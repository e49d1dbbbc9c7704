"""How far a build is: samples, tokens, rates and time left, on stderr.

In: what each task has done so far. Out: one line that is rewritten on a terminal, or a new line every 10 s in a log.
Time left is by bytes of input: of a task under way as many are taken for done as its tokens took in the finished ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from titan_speech.progress import clock

BYTES_PER_TOKEN = 4.0  # until a task is finished
LOG_SEC, TERMINAL_SEC = 10.0, 0.2


class BuildProgress:
    """One stage of a build; `tick` is called often and prints rarely."""

    def __init__(self, stage: str, what: str, num_bytes: Sequence[int]) -> None:
        self._stage, self._what, self._num_bytes = stage, what, np.asarray(num_bytes, np.float64)
        self._stream, self._began = sys.stderr, time.monotonic()
        self._on_terminal = self._stream.isatty()
        self._due = self._began + (TERMINAL_SEC if self._on_terminal else LOG_SEC)
        self._num_refused = 0
        self._last = np.zeros((len(num_bytes), 2), np.int64), np.zeros(len(num_bytes), bool)

    def tick(self, counts: NDArray[np.int64], is_done: NDArray[np.bool_]) -> None:
        self._last = counts, is_done
        if time.monotonic() >= self._due:
            self._print("" if self._on_terminal else "\n")

    def finish(self, num_refused: int = 0) -> None:
        """The last line stays."""
        self._num_refused = num_refused
        if len(self._last[1]):
            self._print("\n")

    def _print(self, ending: str) -> None:
        now = time.monotonic()
        self._due = now + (TERMINAL_SEC if self._on_terminal else LOG_SEC)
        line = self._line(*self._last, now - self._began)
        print(f"\r{line:<110}" if self._on_terminal else line, end=ending, file=self._stream, flush=True)

    def _line(self, counts: NDArray[np.int64], is_done: NDArray[np.bool_], elapsed_sec: float) -> str:
        num_samples, num_tokens = counts.sum(axis=0).tolist()
        elapsed_sec = max(elapsed_sec, 1e-9)
        share = self._share(counts[:, 1], is_done)
        left = f"{clock(elapsed_sec * (1 - share) / share)} left" if 0 < share < 1 else f"{clock(elapsed_sec)} taken"
        return (
            f"{self._stage} {is_done.sum() - self._num_refused} of {len(is_done)} {self._what}"
            f"{f', refused {self._num_refused}' if self._num_refused else ''}: {num_samples:,} samples "
            f"({num_samples / elapsed_sec:,.0f}/s), {num_tokens / 1e6:,.1f} M tokens "
            f"({num_tokens / elapsed_sec / 1e6:,.2f} M/s), {left}"
        )

    def _share(self, tokens: NDArray[np.int64], is_done: NDArray[np.bool_]) -> float:
        """Of the bytes of input."""
        finished = self._num_bytes[is_done].sum()
        per_token = finished / max(tokens[is_done].sum(), 1) if finished else BYTES_PER_TOKEN
        under_way = np.minimum(tokens[~is_done] * per_token, self._num_bytes[~is_done]).sum()
        return float((finished + under_way) / max(self._num_bytes.sum(), 1.0))
