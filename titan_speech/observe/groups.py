"""Losses by token kind, task, language and source, from the sums the loss kept.

In: loss sums and token counts of every (stream, token kind), already added up over ranks. Out: one (sum, count) per
group name; it is divided once, here, and a group that saw no token is absent rather than zero.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from titan_speech.vocabulary import TokenKind


@dataclass(frozen=True)
class StreamKey:
    """What a stream is called in the groups."""

    source: str
    language: str
    task: str


@dataclass(frozen=True)
class GroupLoss:
    """Summed loss of a group and the trained tokens it was summed over."""

    loss_sum: float
    num_tokens: int

    @property
    def mean(self) -> float:
        return self.loss_sum / self.num_tokens


def group_losses(sums_2SK: torch.Tensor, streams: list[StreamKey]) -> dict[str, GroupLoss]:
    """Losses named `loss`, `loss/kind/...`, `loss/task/...`, `loss/language/...` and `loss/source/...`.

    Args:
        sums_2SK: loss sums and token counts, shape [2, streams, token kinds].
        streams: the streams in plan order.
    """
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for stream_index, stream in enumerate(streams):
        for kind in TokenKind:
            loss_sum, num_tokens = sums_2SK[:, stream_index, kind].tolist()
            for name in _group_names(stream, kind):
                totals[name][0] += loss_sum
                totals[name][1] += num_tokens
    return {
        name: GroupLoss(loss_sum, round(num_tokens)) for name, (loss_sum, num_tokens) in totals.items() if num_tokens
    }


def _group_names(stream: StreamKey, kind: TokenKind) -> tuple[str, ...]:
    return (
        "loss",
        f"loss/kind/{kind.name.lower()}",
        f"loss/task/{stream.task}",
        f"loss/language/{stream.language}",
        f"loss/source/{stream.source}",
    )
