"""Preference losses (DPO and its kin) over packed pairs, with the memory of a chunked cross-entropy.

In: hidden states and labels of packs in which every answer has a number (data/pack_layout.py), and the reference's
log-probability of each answer. Out: the loss of the pairs divided by their number in the step, its gradient, and sums
of rewards for the metrics.

A preference loss is a function of log-probabilities of whole answers, and each of these is a sum over tokens. So its
gradient is that of a cross-entropy in which each token has the weight of its answer:

    1. head and log-probabilities chunk by chunk, without gradients, into one sum per answer; under context parallelism
       the ranks add their sums
    2. the derivative of the loss by each sum, a few hundred numbers
    3. head, cross-entropy and backward pass chunk by chunk, each token weighted by its answer's derivative

Neither the logits nor anything of the layout exists at once, and nothing of the decoder, FSDP or tensor parallelism is
changed. The price is the head's forward pass a second time, once per micro-batch.

Shapes: B packs, L tokens of a pack, N = B * L, A numbers of answers in a pack (0: none; odd: chosen), P pairs, S
streams, K sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torchtitan.components.loss import IGNORE_INDEX, ChunkedLossWrapper
from torchtitan.config import CompileConfig

from titan_speech.config.schema_training import PreferenceConfig
from titan_speech.data.pack_layout import answer_numbers, max_answers, split_labels
from titan_speech.tokenization.vocabulary import token_kinds
from titan_speech.training.loss import NUM_KINDS, GroupedCrossEntropy, GroupSums, StepSums


class Answers(NamedTuple):
    """Log-probability and number of tokens of the chosen and the rejected answer of each pair, and where there are
    pairs; tensors of one shape."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    num_chosen: torch.Tensor
    num_rejected: torch.Tensor


class PairLosses(NamedTuple):
    """The loss of each pair and the rewards of its answers, and how much likelier the chosen one is than by the
    reference, as a log-probability."""

    loss: torch.Tensor
    chosen_ratio: torch.Tensor
    chosen_reward: torch.Tensor
    rejected_reward: torch.Tensor


def pair_losses(
    policy: Answers, reference_chosen: Any, reference_rejected: Any, settings: PreferenceConfig
) -> PairLosses:
    """The loss of each pair by the papers named in `[preference] loss`.

    Args:
        policy: of the model that is trained.
        reference_chosen, reference_rejected: log-probabilities of the frozen reference; 0 without one.
        settings: which loss, and its constants.
    """
    chosen, rejected = policy.chosen - reference_chosen, policy.rejected - reference_rejected
    chosen_ratio = chosen.detach()
    if settings.is_per_token:
        chosen, rejected = chosen / policy.num_chosen, rejected / policy.num_rejected
    if settings.loss == "ipo":
        loss = (chosen - rejected - 1 / (2 * settings.beta)).square()
    else:
        loss = -F.logsigmoid(settings.beta * (chosen - rejected) - settings.target_margin)
    if settings.sft_weight:
        loss = loss - settings.sft_weight * policy.chosen / policy.num_chosen
    return PairLosses(loss, chosen_ratio, settings.beta * chosen.detach(), settings.beta * rejected.detach())


PAIR_SUMS: tuple[str, ...] = (
    "pairs",
    "loss",
    "accuracy",
    "margin",
    "chosen_reward",
    "rejected_reward",
    "chosen_logp",
    "rejected_logp",
    "chosen_ratio",
    "chosen_tokens",
    "rejected_tokens",
)
"""What is summed over the pairs of each stream; a reward of the chosen answer above that of the rejected one is an
accuracy of 1."""


class PairSums(GroupSums):
    """Losses by group, and next to them sums over pairs, which are kept or discarded with the same steps."""

    def __init__(self, num_streams: int) -> None:
        super().__init__(num_streams)
        self.pairs = StepSums(num_streams, len(PAIR_SUMS))
        """`PAIR_SUMS` of the pairs of each stream."""

    def commit(self, is_sound: torch.Tensor) -> None:
        super().commit(is_sound)
        self.pairs.commit(is_sound)


class AnswerCrossEntropy(GroupedCrossEntropy):
    """Cross-entropy that either adds the log-probability of each answer, or weights each token by its answer."""

    @dataclass(kw_only=True, slots=True)
    class Config(GroupedCrossEntropy.Config):
        seq_len: int
        """Tokens of a pack."""

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None) -> None:
        super().__init__(config, compile_config=compile_config)
        self.groups: PairSums = PairSums(config.num_streams)
        self.num_numbers = max_answers(config.seq_len) + 1
        self.weight_BA: torch.Tensor | None = None
        """Weight of each answer's tokens; None while log-probabilities are added."""
        self.sums_3BA: torch.Tensor
        """The log-probability of each answer, its number of trained tokens, and that number times its stream."""
        self.counts_groups = True
        """Whether losses by group are added along with log-probabilities."""

    def begin(self, num_packs: int, device: torch.device) -> None:
        """Log-probabilities are added from zero."""
        self.weight_BA = None
        self.sums_3BA = torch.zeros(3, num_packs, self.num_numbers, dtype=torch.float64, device=device)

    def __call__(
        self, pred: torch.Tensor, labels: torch.Tensor, global_valid_tokens: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted loss of a chunk of logits divided by `global_valid_tokens`, which here is a number of pairs;
        0 while log-probabilities are added."""
        num_packs, num_positions = labels.shape
        ids_N, stream_N = split_labels(labels.flatten())
        first_N = torch.arange(num_packs, device=labels.device).repeat_interleave(num_positions) * self.num_numbers
        answer_N = first_N + answer_numbers(labels.flatten())
        nll_N = self.fn(pred.flatten(0, 1), ids_N, self.config.num_rows)
        if self.weight_BA is None:
            trained_N = ids_N != IGNORE_INDEX
            self.sums_3BA.view(3, -1).index_add_(1, answer_N, torch.stack([-nll_N.double(), trained_N, stream_N]))
            if self.counts_groups:
                kind_N = token_kinds(ids_N, self.config.kind_boundaries)
                self.groups.add(nll_N, stream_N * NUM_KINDS + kind_N, trained_N)
            return nll_N.new_zeros(()), {}
        loss = (self.weight_BA.view(-1)[answer_N] * nll_N).sum()
        return (loss if global_valid_tokens is None else loss / global_valid_tokens), {}


class PreferenceLoss(ChunkedLossWrapper):
    """Preference loss of a micro-batch; without gradients it only adds up log-probabilities and metrics."""

    @dataclass(kw_only=True, slots=True)
    class Config(ChunkedLossWrapper.Config):
        settings: PreferenceConfig

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None) -> None:
        super().__init__(config, compile_config=compile_config)
        assert isinstance(self.loss_fn, AnswerCrossEntropy)
        self.answers = self.loss_fn
        self.settings = config.settings
        self.num_pairs = torch.ones(())
        """Pairs of the step over all ranks; set before its first micro-batch."""
        self.reference_BA: torch.Tensor | None = None
        """The reference's log-probability of each answer of the next micro-batch; None without a reference."""
        self.add_over_context: Callable[[torch.Tensor], object] = lambda _: None
        """Adds sums of the ranks that share a sequence, in place; set where context parallelism divides it."""
        self.num_context = 1
        """How many ranks those are."""

    def __call__(
        self,
        pred: torch.Tensor,
        labels: torch.Tensor,
        global_valid_tokens: torch.Tensor | None = None,
        **loss_inputs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of this micro-batch's pairs over the number of pairs of the step; see the module."""
        value, weight_BA = self._weights(*self._measure(pred, labels))
        value = (value / self.num_pairs / self.num_context).float()
        if not pred.requires_grad:
            return value, {}
        self.answers.weight_BA = weight_BA.float()
        loss, metrics = super().__call__(pred, labels, self.num_pairs)
        return loss + (value - loss.detach()), metrics

    def log_probabilities(self, pred: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Log-probability of each answer, shape [packs, numbers of answers]; nothing enters the metrics.

        Args:
            pred: hidden states.
            labels: of the same positions.
        """
        self.answers.counts_groups = False
        try:
            return self._measure(pred, labels)[0]
        finally:
            self.answers.counts_groups = True

    @torch.no_grad()
    def _measure(self, pred: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probability, number of tokens and stream of each answer."""
        self.answers.begin(labels.shape[0], labels.device)
        super().__call__(pred.detach(), labels)
        self.add_over_context(self.answers.sums_3BA)
        logp_BA, num_BA, stream_BA = self.answers.sums_3BA
        return logp_BA, num_BA, stream_BA / num_BA.clamp(min=1)

    def _weights(
        self, logp_BA: torch.Tensor, num_BA: torch.Tensor, stream_BA: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss of the pairs, and for each answer how the loss falls with its cross-entropy."""
        is_pair_BP = num_BA[:, 2::2] > 0
        num_BA = num_BA.clamp(min=1)
        reference_BA = torch.zeros_like(num_BA) if self.reference_BA is None else self.reference_BA
        with torch.enable_grad():  # validation runs without gradients
            logp_BA = logp_BA.clone().requires_grad_()
            policy = Answers(logp_BA[:, 1::2], logp_BA[:, 2::2], num_BA[:, 1::2], num_BA[:, 2::2])
            found = pair_losses(policy, reference_BA[:, 1::2], reference_BA[:, 2::2], self.settings)
            value = torch.where(is_pair_BP, found.loss, 0.0).sum()
            (grad_BA,) = torch.autograd.grad(value, logp_BA)
        self._count(policy, found, is_pair_BP, stream_BA[:, 1::2].long())
        return value.detach(), -grad_BA

    @torch.no_grad()
    def _count(self, policy: Answers, found: PairLosses, is_pair_BP: torch.Tensor, stream_BP: torch.Tensor) -> None:
        margin = found.chosen_reward - found.rejected_reward
        columns = (
            torch.ones_like(margin),
            found.loss,
            (margin > 0).double(),
            margin,
            found.chosen_reward,
            found.rejected_reward,
            policy.chosen,
            policy.rejected,
            found.chosen_ratio,
            policy.num_chosen,
            policy.num_rejected,
        )
        sums_PK = torch.stack([torch.where(is_pair_BP, column.detach(), 0.0).flatten() for column in columns], dim=1)
        sums_SK = self.answers.groups.pairs.of_step(sums_PK.device)
        sums_SK.index_add_(0, stream_BP.flatten(), (sums_PK / self.num_context).double())


def describe_pairs(sums_SK: torch.Tensor, names: list[tuple[str, ...]]) -> dict[str, float]:
    """Means over pairs, of all and by name, as they are logged.

    Args:
        sums_SK: `PAIR_SUMS` of each stream, over all ranks.
        names: of each stream the groups it belongs to, such as `source/pairs`.
    """
    found: dict[str, float] = {}
    groups = dict.fromkeys(name for some in names for name in ("", *some))
    for group in groups:
        members = [index for index, some in enumerate(names) if not group or group in some]
        total: dict[str, float] = dict(zip(PAIR_SUMS, sums_SK[members].sum(dim=0).tolist(), strict=True))
        if not total["pairs"]:
            continue
        ending = f"/{group}" if group else ""
        shown = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")
        found |= {f"preference/{name}{ending}": total[name] / total["pairs"] for name in shown}
        for which in ("chosen", "rejected"):
            found[f"preference/{which}_logp{ending}"] = total[f"{which}_logp"] / total[f"{which}_tokens"]
        found[f"preference/chosen_drift{ending}"] = total["chosen_ratio"] / total["chosen_tokens"]
        found[f"preference/pairs{ending}"] = total["pairs"]
    return found
