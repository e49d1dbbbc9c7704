"""The packed, chunked preference loss against plain torch over the log-probabilities of each answer alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from titan_speech.config.schema_training import PreferenceConfig
from titan_speech.data.pack_layout import ANSWER_SHIFT, answer_numbers, encode_labels, split_labels
from titan_speech.training.preference import answers_of
from titan_speech.training.preference_loss import (
    PAIR_SUMS,
    AnswerCrossEntropy,
    PreferenceLoss,
    describe_pairs,
)

NUM_ROWS, SEQ_LEN, WIDTH, NUM_STREAMS = 64, 64, 8, 3
LENGTHS = [(9, 14), (20, 8)], [(12, 12)], []
"""Of each pack the lengths of its pairs; the last pack is padding."""
STREAM_OF_PACK = (2, 1, 0)

DPO = PreferenceConfig(loss="dpo", beta=0.3)
SETTINGS = {
    "dpo": DPO,
    "dpo_norm": PreferenceConfig(loss="dpo_norm", beta=3.0),
    "ipo": PreferenceConfig(loss="ipo", beta=0.2),
    "simpo": PreferenceConfig(loss="simpo", beta=2.0, target_margin=0.5),
    "dpo with sft": replace(DPO, sft_weight=0.7),
}


class Sample:
    """Packs of random hidden states and labels, and where each answer is in them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.hidden_BLD = torch.randn(len(LENGTHS), SEQ_LEN, WIDTH)
        self.head = nn.Linear(WIDTH, NUM_ROWS, bias=False)
        self.labels_BL = torch.full((len(LENGTHS), SEQ_LEN), -100)
        self.answers: list[tuple[int, int, slice]] = []
        """Pack, number and positions of each, the chosen and the rejected one of a pair in turn."""
        rng = np.random.default_rng(0)
        for pack, pairs in enumerate(LENGTHS):
            end = 0
            for number, length in enumerate((length for pair in pairs for length in pair), 1):
                trained = slice(end + 3, end + length - 1)  # three tokens of prompt; the last predicts nothing
                ids = rng.integers(0, NUM_ROWS, trained.stop - trained.start)
                labels = torch.from_numpy(encode_labels(ids, STREAM_OF_PACK[pack]))
                self.labels_BL[pack, trained] = labels + (number << ANSWER_SHIFT)
                self.answers.append((pack, number, trained))
                end += length
        self.reference_BA = torch.zeros(len(LENGTHS), max_number(), dtype=torch.float64)
        for pack, number, _ in self.answers:
            self.reference_BA[pack, number] = -float(rng.uniform(20, 60))

    def alone(self, hidden_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probability, reference and number of tokens of each answer, from its own positions alone."""
        logp, reference, num_tokens = [], [], []
        for pack, number, trained in self.answers:
            ids_T = self.labels_BL[pack, trained] & 0xFFFF
            log_probs_TV = torch.log_softmax(self.head(hidden_BLD[pack, trained]), dim=-1)
            logp.append(log_probs_TV[torch.arange(len(ids_T)), ids_T].sum())
            reference.append(self.reference_BA[pack, number])
            num_tokens.append(len(ids_T))
        return torch.stack(logp), torch.stack(reference).float(), torch.tensor(num_tokens)

    def loss(self, settings: PreferenceConfig, num_chunks: int = 4) -> PreferenceLoss:
        answers = AnswerCrossEntropy.Config(
            num_rows=NUM_ROWS, num_streams=NUM_STREAMS, kind_boundaries=(16, 60), seq_len=SEQ_LEN
        )
        loss = PreferenceLoss.Config(num_chunks=num_chunks, loss_fn=answers, settings=settings).build()
        loss.set_lm_head(self.head)
        loss.num_pairs = torch.tensor(3.0)
        loss.reference_BA = self.reference_BA if settings.has_reference else None
        return loss


def max_number() -> int:
    return 2 * (SEQ_LEN // 14) + 1


def by_hand(settings: PreferenceConfig, sample: Sample, hidden_BLD: torch.Tensor) -> torch.Tensor:
    """The mean over the pairs, as the papers write it."""
    logp, reference, num_tokens = sample.alone(hidden_BLD)
    chosen, rejected = logp[0::2], logp[1::2]
    ratios = logp - reference
    c, r = ratios[0::2], ratios[1::2]
    num_c, num_r = num_tokens[0::2], num_tokens[1::2]
    if settings.loss == "dpo":
        loss = -torch.log(torch.sigmoid(settings.beta * (c - r)))
    elif settings.loss == "dpo_norm":
        loss = -torch.log(torch.sigmoid(settings.beta / num_c * c - settings.beta / num_r * r))
    elif settings.loss == "ipo":
        loss = (c / num_c - r / num_r - 1 / (2 * settings.beta)) ** 2
    else:
        margin = settings.beta / num_c * chosen - settings.beta / num_r * rejected - settings.target_margin
        loss = -torch.log(torch.sigmoid(margin))
    return (loss + settings.sft_weight * -chosen / num_c).mean()


def gradients(sample: Sample, value: torch.Tensor, hidden_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sample.head.weight.grad = hidden_BLD.grad = None
    value.backward()
    assert hidden_BLD.grad is not None
    assert sample.head.weight.grad is not None
    return hidden_BLD.grad.clone(), sample.head.weight.grad.clone()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("num_chunks", [1, 4])
def test_loss_and_gradients_are_those_of_the_formula(name: str, num_chunks: int) -> None:
    settings, sample = SETTINGS[name], Sample()
    expected_BLD = sample.hidden_BLD.clone().requires_grad_()
    expected = by_hand(settings, sample, expected_BLD)
    of_hidden, of_head = gradients(sample, expected, expected_BLD)

    hidden_BLD = sample.hidden_BLD.clone().requires_grad_()
    sample.head.weight.grad = None  # the chunks add to it during the forward pass
    value, _ = sample.loss(settings, num_chunks)(hidden_BLD, sample.labels_BL, torch.tensor(1e9))
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(hidden_BLD.grad, of_hidden)
    torch.testing.assert_close(sample.head.weight.grad, of_head)
    assert of_hidden.abs().max() > 1e-3


def test_a_step_in_several_micro_batches_has_the_gradient_of_one() -> None:
    sample = Sample()
    whole_BLD = sample.hidden_BLD.clone().requires_grad_()
    value, _ = sample.loss(DPO)(whole_BLD, sample.labels_BL)
    value.backward()
    parts_BLD, total = sample.hidden_BLD.clone().requires_grad_(), 0.0
    for pack in range(len(LENGTHS)):
        loss = sample.loss(DPO)
        loss.reference_BA = sample.reference_BA[pack : pack + 1]
        part, _ = loss(parts_BLD[pack : pack + 1], sample.labels_BL[pack : pack + 1])
        part.backward()
        total += float(part.detach())
    torch.testing.assert_close(parts_BLD.grad, whole_BLD.grad)
    assert total == pytest.approx(float(value.detach()))


def test_a_pack_that_is_divided_between_ranks_has_the_same_gradient() -> None:
    """Context parallelism gives each rank a part of the positions; they add the log-probabilities of answers."""
    sample = Sample()
    whole_BLD = sample.hidden_BLD.clone().requires_grad_()
    value, _ = sample.loss(DPO)(whole_BLD, sample.labels_BL)
    value.backward()
    half = SEQ_LEN // 2
    sums = []
    for part in (slice(0, half), slice(half, None)):
        loss = sample.loss(DPO)
        loss.log_probabilities(sample.hidden_BLD[:, part], sample.labels_BL[:, part])
        sums.append(loss.answers.sums_3BA)
    total = 0.0
    for part in (slice(0, half), slice(half, None)):
        loss = sample.loss(DPO)
        loss.num_context = 2
        loss.add_over_context = lambda sums_3BA: sums_3BA.copy_(sums[0] + sums[1])
        part_BLD = sample.hidden_BLD[:, part].clone().requires_grad_()
        share, _ = loss(part_BLD, sample.labels_BL[:, part])
        share.backward()
        torch.testing.assert_close(part_BLD.grad, whole_BLD.grad[:, part])  # type: ignore[index]
        total += float(share.detach())
    assert total == pytest.approx(float(value.detach()))


def test_metrics_are_means_over_the_pairs_of_sound_steps() -> None:
    sample = Sample()
    logp, reference, num_tokens = sample.alone(sample.hidden_BLD)
    logp = logp.detach()
    rewards = DPO.beta * (logp - reference)
    margins = (rewards[0::2] - rewards[1::2]).tolist()
    loss = sample.loss(DPO)
    loss(sample.hidden_BLD, sample.labels_BL)
    loss.answers.groups.commit(torch.tensor(False))
    with torch.no_grad():  # as validation does
        value, _ = loss(sample.hidden_BLD, sample.labels_BL)
    assert float(value) == pytest.approx(float(by_hand(DPO, sample, sample.hidden_BLD).detach()), rel=1e-5)
    loss.answers.groups.commit(torch.tensor(True))
    taken_SK = loss.answers.groups.pairs.take(torch.device("cpu"))
    assert taken_SK[:, PAIR_SUMS.index("pairs")].tolist() == [0, 1, 2]
    found = describe_pairs(taken_SK, [("source/a",), ("source/a",), ("source/b",)])
    assert found["preference/pairs"] == 3
    assert found["preference/margin"] == pytest.approx(np.mean(margins), rel=1e-5)
    assert found["preference/accuracy"] == pytest.approx(np.mean([margin > 0 for margin in margins]))
    assert found["preference/margin/source/a"] == pytest.approx(margins[2], rel=1e-5)
    assert found["preference/chosen_reward"] == pytest.approx(float(rewards[0::2].mean()), rel=1e-5)
    per_token = float(logp[0::2].sum() / num_tokens[0::2].sum())
    assert found["preference/chosen_logp"] == pytest.approx(per_token, rel=1e-5)
    drift = float((logp - reference)[0::2].sum() / num_tokens[0::2].sum())
    assert found["preference/chosen_drift"] == pytest.approx(drift, rel=1e-4)
    assert not loss.answers.groups.pairs.take(torch.device("cpu")).any()
    assert loss.answers.groups.take(torch.device("cpu"))[1].sum() == num_tokens.sum()


def test_measuring_the_reference_enters_no_metric() -> None:
    sample = Sample()
    loss = sample.loss(DPO)
    logp_BA = loss.log_probabilities(sample.hidden_BLD, sample.labels_BL)
    logp, _, _ = sample.alone(sample.hidden_BLD)
    found = [float(logp_BA[pack, number]) for pack, number, _ in sample.answers]
    assert found == pytest.approx(logp.tolist(), rel=1e-5)
    loss.answers.groups.commit(torch.tensor(True))
    assert not loss.answers.groups.take(torch.device("cpu")).any()
    assert not loss.answers.groups.pairs.take(torch.device("cpu")).any()


def test_the_number_of_an_answer_does_not_touch_id_and_stream() -> None:
    labels = torch.tensor([-100, 7 + (3 << 32), 7 + (3 << 32) + (5 << ANSWER_SHIFT)])
    ids, streams = split_labels(labels)
    assert ids.tolist() == [-100, 7, 7]
    assert streams.tolist() == [0, 3, 3]
    assert answer_numbers(labels).tolist() == [0, 0, 5]


def test_a_hopeless_pair_has_a_finite_gradient() -> None:
    """At a margin of thousands of nats the plain formula is log(0)."""
    sample = Sample()
    sample.reference_BA[0, 1] = 1e5
    hidden_BLD = sample.hidden_BLD.clone().requires_grad_()
    value, _ = sample.loss(DPO)(hidden_BLD, sample.labels_BL)
    value.backward()
    assert torch.isfinite(value)
    assert hidden_BLD.grad is not None
    assert torch.isfinite(hidden_BLD.grad).all()
    assert F.relu(value) > 1e3


def test_a_batch_of_padding_has_no_answers() -> None:
    """Where the packs of a step do not fill all ranks, some of them compute padding alone."""
    ids_BL = torch.zeros(2, SEQ_LEN, dtype=torch.int64)
    answers_BA3 = answers_of(({"input": ids_BL}, torch.full_like(ids_BL, -100)))
    assert answers_BA3.shape == (2, max_number(), 3)
    assert (answers_BA3 == -1).all()
