"""Cross-entropy over text and speech tokens, with sums per group from the same pass.

In: logits over the extended vocabulary and labels that carry the stream's index in their high bits
(data/pack_layout.py). Out: the summed loss over trained tokens divided by their global number, and a running
sum and count for every (stream, kind of token). A stream is one source, language and task, so every group a run reports
is a sum of these cells: no extra forward pass, and no host sync until a log step. A sum is divided by its count once,
at the end; a group without tokens is absent rather than zero. The cost is one `index_add_` of N scalars next to N x V
logits: 0.08 ms next to 95 ms of head, loss and backward (N = 128, V = 69,760, one CPU core).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torchtitan.components.loss import IGNORE_INDEX, BaseLoss, _LossParallelCrossEntropy
from torchtitan.config import CompileConfig
from torchtitan.distributed.spmd_types import current_spmd_mesh, spmd_mesh_size
from torchtitan.distributed.utils import get_spmd_backend

from titan_speech.data.pack_layout import split_labels
from titan_speech.tokenization.vocabulary import TokenKind, token_kinds


@dataclass(frozen=True)
class StreamKey:
    """The names of a stream in the groups."""

    source: str
    language: str
    task: str


@dataclass(frozen=True)
class GroupLoss:
    """Summed loss of a group and its number of trained tokens."""

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


# Shape legend: B packs, L tokens, N = B * L, V vocabulary rows (this rank's under tensor parallelism), G groups.

NUM_KINDS = len(TokenKind)


class GroupSums:
    """Loss sum and token count of every group, on the device; group = stream * NUM_KINDS + kind.

    Three calls, each by one owner: the loss `add`s every microbatch; once per step the step guard `commit`s what was
    added, or discards it if the step is skipped; at a log step the metrics `take` what was committed since the last.
    Between two steps validation adds too, and takes what it added (`take_step`).
    """

    def __init__(self, num_streams: int) -> None:
        self.num_streams = num_streams
        self._step_2G: torch.Tensor | None = None
        self._sums_2G: torch.Tensor | None = None

    def keep_in(self, module: torch.nn.Module, device: torch.device) -> None:
        """Make the sums of a step a buffer of `module` that checkpoints leave out.

        A pipeline rehearses its first pass, loss included, and then restores the buffers of its stage, which removes
        the rehearsal from the sums. A CUDA graph needs the memory to be allocated.
        """
        self._step_2G = self._zeros(device)
        module.register_buffer("loss_sums", self._step_2G, persistent=False)

    def add(self, nll_N: torch.Tensor, group_N: torch.Tensor, trained_N: torch.Tensor) -> None:
        """Add the losses of one microbatch, in place.

        Args:
            nll_N: loss of each token, 0 for those not trained.
            group_N: group of each token.
            trained_N: whether each token is trained.
        """
        if self._step_2G is None:
            self._step_2G = self._zeros(nll_N.device)
        self._step_2G[0].index_add_(0, group_N, nll_N.double())
        self._step_2G[1].index_add_(0, group_N, trained_N.double())

    def commit(self, is_sound: torch.Tensor) -> None:
        """Keep what was added since the last commit if `is_sound`, a flag on the device; discard it otherwise."""
        if self._step_2G is None:
            return
        if self._sums_2G is None:
            self._sums_2G = self._zeros(self._step_2G.device)
        self._sums_2G += torch.where(is_sound, self._step_2G, 0.0)
        self._step_2G.zero_()

    def take_step(self, device: torch.device) -> torch.Tensor:
        """Sums and counts added since the last commit, shape [2, streams, kinds]; they start from zero again.

        Validation reads them, between two steps.
        """
        taken = self._zeros(device) if self._step_2G is None else self._step_2G.clone()
        if self._step_2G is not None:
            self._step_2G.zero_()
        return taken.view(2, self.num_streams, NUM_KINDS)

    def take(self, device: torch.device) -> torch.Tensor:
        """Sums and counts committed since the last call, shape [2, streams, kinds]; they start from zero again."""
        taken = self._zeros(device) if self._sums_2G is None else self._sums_2G.clone()
        if self._sums_2G is not None:
            self._sums_2G.zero_()
        return taken.view(2, self.num_streams, NUM_KINDS)

    def _zeros(self, device: torch.device) -> torch.Tensor:
        return torch.zeros(2, self.num_streams * NUM_KINDS, dtype=torch.float64, device=device)


class GroupedCrossEntropy(BaseLoss):
    """Cross-entropy summed over trained tokens; vocabulary-parallel under tensor parallelism."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        num_rows: int
        """Rows of the extended, padded vocabulary, over all tensor-parallel ranks."""

        num_streams: int
        """Number of streams of the data plan."""

        kind_boundaries: tuple[int, int]
        """Of the vocabulary: the first id of a code and the first id of a special."""

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None) -> None:
        self.config = config
        self.groups = GroupSums(config.num_streams)
        self.fn = token_nll
        self._maybe_compile(compile_config)

    def __call__(
        self,
        pred: torch.Tensor,
        labels: torch.Tensor,
        global_valid_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of logits pred_BLV against encoded labels_BL, divided by `global_valid_tokens` if given."""
        ids_N, stream_N = split_labels(labels.flatten())
        nll_N = self.fn(pred.flatten(0, 1), ids_N, self.config.num_rows)
        with torch.no_grad():
            kind_N = token_kinds(ids_N, self.config.kind_boundaries)
            self.groups.add(nll_N.detach(), stream_N * NUM_KINDS + kind_N, ids_N != IGNORE_INDEX)
        loss = nll_N.sum()
        return (loss if global_valid_tokens is None else loss / global_valid_tokens), {}


def token_nll(logits_NV: torch.Tensor, ids_N: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Negative log-likelihood of each token in fp32, 0 where the label is ignored."""
    if get_spmd_backend() == "spmd_types" and spmd_mesh_size("tp") > 1:
        mesh = current_spmd_mesh()
        assert mesh is not None
        return _LossParallelCrossEntropy.apply(logits_NV.float(), ids_N, mesh.get_group("tp"), num_rows, "none")
    return F.cross_entropy(logits_NV.float(), ids_N, reduction="none", ignore_index=IGNORE_INDEX)
