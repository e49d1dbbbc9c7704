"""The mixture that a run reads against the one that was planned.

In: at each log step the packs of each stream that the data plan gives the steps since the last one, and those counted
in the batches of all ranks. Out: `read_tokens/source/...` and `read_tokens/language/...` for the log, and one sentence
for each source or language that was read less or more than planned, which flags the run. The plan is exact, so a
difference means that slots were lost or read twice, whatever the loss says. The cost is that of adding two small
arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from titan_speech.training.loss import StreamKey

TOLERANCE = 0.1
"""Difference that is allowed, as a fraction of the planned packs."""
MIN_PACKS = 8
"""Planned; below it nothing is said."""

# S streams.


def tokens_read(packs_S: NDArray[np.int64], streams: Sequence[StreamKey], seq_len: int) -> dict[str, int]:
    """Tokens of the packs of each source and language, padding included; those that were not read are absent."""
    return {f"read_tokens/{name}": packs * seq_len for name, packs in _by_group(packs_S, streams).items() if packs}


def _by_group(packs_S: NDArray[np.int64], streams: Sequence[StreamKey]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for stream, packs in zip(streams, packs_S.tolist(), strict=True):
        found[f"source/{stream.source}"] += packs
        found[f"language/{stream.language}"] += packs
    return found


class MixtureCheck:
    """Adds both counts up since the start of the process."""

    def __init__(self, streams: Sequence[StreamKey]) -> None:
        self._streams = streams
        self._planned_S = np.zeros(len(streams), np.int64)
        self._counted_S = np.zeros(len(streams), np.int64)
        self._reported: set[str] = set()

    def compare(self, planned_S: NDArray[np.int64], counted_S: NDArray[np.int64]) -> list[str]:
        """Add the packs of some steps, and compare all so far.

        Returns:
            What differs, each source and language once.
        """
        self._planned_S, self._counted_S = self._planned_S + planned_S, self._counted_S + counted_S
        counted, differing = _by_group(self._counted_S, self._streams), []
        for name, planned in _by_group(self._planned_S, self._streams).items():
            is_off = planned >= MIN_PACKS and abs(counted[name] - planned) > TOLERANCE * planned
            if is_off and name not in self._reported:
                self._reported.add(name)
                differing.append(
                    f"{name.replace('/', ' ')}: {counted[name]:,} packs were read, the data plan has {planned:,}; the "
                    "run does not train on the mixture it was given (titan-speech data order shows the plan)"
                )
        return differing
