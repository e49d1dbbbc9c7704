"""Progress of tasks that several processes work on (process_pool.py).

In: the samples and tokens that each task has finished so far. Out: a line as of progress.py, with the time left from
the first finished task on, or from the start where the tasks' numbers of samples are known. Rates begin with the first
samples: a codec that takes 12 s to load is not shown as 0.08 samples per second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from titan_speech.utils.progress import MIN_SEC, ProgressLine, RateEstimate, clock
from titan_speech.utils.text_table import amount, counted


class TaskProgress:
    """Progress of tasks that several processes work on: tasks, samples, tokens, their rates and the time left.

    How much of a running task is done follows from its number of samples where that is known, else from the samples per
    byte of the tasks that are finished; until there is one, it counts as not begun.
    """

    def __init__(
        self, stage: str, what: str, sizes: Sequence[float], num_samples: Sequence[int | None] | None = None
    ) -> None:
        """
        Args:
            stage: what is done to a task, as `imported`.
            what: what a task is, as `unit`.
            sizes: of each task in any one unit, such as bytes.
            num_samples: of each task, where it is known before.
        """
        self._stage, self._what, self._size_N = stage, what, np.maximum(np.asarray(sizes, np.float64), 1.0)
        self._num_samples_N = np.array([number or np.nan for number in num_samples or [None] * len(sizes)], np.float64)
        self._line, self._rate = ProgressLine(), RateEstimate(1.0)
        self._last = np.zeros((len(sizes), 2), np.int64), np.zeros(len(sizes), bool)
        self._first: tuple[float, NDArray[np.int64]] | None = None
        """When samples were first reported, and the samples and tokens of that moment."""

    def report(self, counts: NDArray[np.int64], is_done: NDArray[np.bool_]) -> None:
        """Called often, prints rarely; when all tasks are finished, what there is to say is left to `finish`.

        Args:
            counts: samples and tokens of each task, [tasks, 2].
            is_done: which tasks are finished, [tasks].
        """
        self._last = counts, is_done
        totals = counts.sum(axis=0)
        if self._first is None and totals[0]:
            self._first = time.monotonic(), totals
        if self._line.is_due and not is_done.all():
            self._rate.update(self._share(counts[:, 0], is_done))
            found = self._found(totals) if totals[0] else f"no sample yet after {clock(self._line.elapsed_sec)}"
            self._line.show(f"{self._head(is_done)}: {found}{self._rate.left_text()}")

    def finish(self, num_refused: int = 0) -> None:
        """Print the last line, which stays.

        Args:
            num_refused: tasks that are finished, but without a usable result.
        """
        if len(self._size_N):
            counts, is_done = self._last
            totals = counts.sum(axis=0)
            found = self._found(totals, is_finished=True) if totals[0] else "no sample"
            head = self._head(is_done, num_refused)
            self._line.show(f"{head}: {found}, {clock(self._line.elapsed_sec)} taken")
        self._line.close()

    def _head(self, is_done: NDArray[np.bool_], num_refused: int = 0) -> str:
        """The beginning of a line, such as `imported 3 of 8 units`."""
        refused = f", refused {num_refused}" if num_refused else ""
        return f"{self._stage} {is_done.sum() - num_refused} of {counted(len(is_done), self._what)}{refused}"

    def _found(self, totals: NDArray[np.int64], is_finished: bool = False) -> str:
        """Samples and tokens, and once some seconds have passed since the first ones, how many per second.

        Tokens are counted per batch of samples, so that while a task runs their number lags and has no rate.
        """
        first_sec, first = self._first or (time.monotonic(), totals)
        passed_sec = time.monotonic() - first_sec
        texts = []
        for total, begun, unit in zip(totals.tolist(), first.tolist(), ("samples", "tokens"), strict=True):
            has_rate = passed_sec >= MIN_SEC and total > begun and (is_finished or unit == "samples")
            rate = f" ({amount((total - begun) / passed_sec)}/s)" if has_rate else ""
            texts += [f"{amount(total, unit)}{rate}"] if total else []
        return ", ".join(texts)

    def _share(self, num_samples_N: NDArray[np.int64], is_done_N: NDArray[np.bool_]) -> float:
        """The estimated part of all tasks that is done, by their sizes."""
        finished = self._size_N[is_done_N].sum()
        size_per_sample = finished / max(num_samples_N[is_done_N].sum(), 1)
        by_number_N = self._size_N * num_samples_N / self._num_samples_N
        running_N = np.where(np.isnan(by_number_N), num_samples_N * size_per_sample, by_number_N)
        return float((finished + np.minimum(running_N, self._size_N)[~is_done_N].sum()) / self._size_N.sum())
