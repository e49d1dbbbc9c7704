"""The interface of a sink of metrics, and the guard that keeps its failures away from training.

In: metrics of log steps and of checks between steps, generated samples, messages. Out: nothing that training waits for.
A full disk, a network that is down or a library that raises costs one warning, and the sink is off from then on;
metrics.jsonl, which no sink replaces, has every value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One generated sample, for people to read and hear."""

    name: str
    """Which prompt it continues: the same over all steps."""
    columns: Mapping[str, str | float]
    """Language, text, measures."""
    audio_T: NDArray[np.float32] | None = None
    """Decoded audio, -1 to 1; None without a decoder."""
    sample_rate: int = 0


@dataclass(frozen=True)
class Message:
    """Something a person should know: a run has ended or was stopped, flagged or rolled back."""

    event: str
    """ended, stopped, flagged, rolled_back."""
    step: int
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)


class Sink:
    """Base of sinks; each method may be left as it is. All are called on one rank, in the main thread."""

    def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
        """Metrics of a log step, or of a check after `step` steps.

        Args:
            step: steps done.
            metrics: by name.
            is_repeat: an earlier start has logged them after this step, and a restart does its steps again.
        """

    def samples(self, step: int, samples: Sequence[Sample], *, is_repeat: bool = False) -> None:
        """What the model generated after `step` steps; arguments as of `log`."""

    def message(self, message: Message) -> None:
        """A message for people."""

    def close(self) -> None:
        """The run ends; nothing is called after it."""


class Sinks(Sink):
    """Several sinks, each guarded."""

    def __init__(self, *makers: tuple[str, Callable[[], Sink]]) -> None:
        """Args: makers: what each sink is called, and what makes it; one that cannot be made is left out."""
        self._sinks: dict[str, Sink] = {}
        for name, make in makers:
            try:
                self._sinks[name] = make()
            except Exception as error:
                _warn(name, error)

    def log(self, step: int, metrics: Mapping[str, float], *, is_repeat: bool = False) -> None:
        self._each(lambda sink: sink.log(step, metrics, is_repeat=is_repeat))

    def samples(self, step: int, samples: Sequence[Sample], *, is_repeat: bool = False) -> None:
        self._each(lambda sink: sink.samples(step, samples, is_repeat=is_repeat))

    def message(self, message: Message) -> None:
        self._each(lambda sink: sink.message(message))

    def close(self) -> None:
        self._each(lambda sink: sink.close())
        self._sinks = {}

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                call(sink)
            except Exception as error:
                del self._sinks[name]
                _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    first_line = str(error).strip().partition("\n")[0]
    logger.warning(
        f"{name} is off for the rest of this run: {type(error).__name__}: {first_line}. Training continues, and "
        "metrics.jsonl has every value."
    )
