"""The grouped cross entropy against sums made by hand from an independent forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchtitan.components.loss import ChunkedLossWrapper

from tests.model.test_model import debug_model, transformers_twin
from titan_speech.data.pack_layout import encode_labels
from titan_speech.tokenization.vocabulary import TokenKind
from titan_speech.training.loss import GroupedCrossEntropy, StreamKey, group_losses

NUM_ROWS, FIRST_CODE, FIRST_SPECIAL = 1024, 300, 900
STREAMS = [
    StreamKey("raw", "en", "speech"),
    StreamKey("paired", "hi", "tts"),
    StreamKey("paired", "en", "tts"),
]


def batch(num_packs: int = 4, seq_len: int = 32) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Inputs, encoded labels, and the ids and streams the labels were made of (-100 where not trained)."""
    rng = np.random.default_rng(0)
    ids_BL = rng.integers(0, NUM_ROWS, (num_packs, seq_len + 1))
    trained_BL = rng.random((num_packs, seq_len)) < 0.7
    stream_B = rng.integers(0, len(STREAMS), num_packs)
    encoded_BL = np.stack([encode_labels(ids_BL[b, 1:], int(stream_B[b])) for b in range(num_packs)])
    labels_BL = np.where(trained_BL, encoded_BL, -100)
    targets_BL = np.where(trained_BL, ids_BL[:, 1:], -100)
    return torch.from_numpy(ids_BL[:, :-1]), torch.from_numpy(labels_BL), targets_BL, stream_B


def loss_config() -> GroupedCrossEntropy.Config:
    return GroupedCrossEntropy.Config(
        num_rows=NUM_ROWS, num_streams=len(STREAMS), kind_boundaries=(FIRST_CODE, FIRST_SPECIAL)
    )


def taken_from(loss: GroupedCrossEntropy, is_sound: bool = True) -> torch.Tensor:
    loss.groups.commit(torch.tensor(is_sound))
    return loss.groups.take(torch.device("cpu"))


def kind_of(token_id: int) -> TokenKind:
    if token_id < FIRST_CODE:
        return TokenKind.TEXT
    return TokenKind.CODE if token_id < FIRST_SPECIAL else TokenKind.SPECIAL


def losses_by_hand(logits_BLV: torch.Tensor, targets_BL: np.ndarray, stream_B: np.ndarray) -> dict[str, float]:
    """Plain loops over log-softmax in fp64."""
    log_probs = torch.log_softmax(logits_BLV.double(), dim=-1)
    sums: dict[str, list[float]] = {}
    for b, position in zip(*np.nonzero(targets_BL != -100), strict=True):
        token = int(targets_BL[b, position])
        stream = STREAMS[stream_B[b]]
        names = ("loss", f"loss/kind/{kind_of(token).name.lower()}", f"loss/task/{stream.task}")
        for name in (*names, f"loss/language/{stream.language}", f"loss/source/{stream.source}"):
            sums.setdefault(name, []).append(-float(log_probs[b, position, token]))
    return {name: sum(values) / len(values) for name, values in sums.items()}


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_group_losses_equal_those_by_hand_from_an_independent_forward(family: str) -> None:
    model = debug_model(family, NUM_ROWS)
    inputs_BL, labels_BL, targets_BL, stream_B = batch()
    positions_BL = torch.arange(inputs_BL.shape[1]).expand_as(inputs_BL)
    loss = loss_config().build()
    logits_BLV = model(inputs_BL, positions_BL, model.get_attention_masks(positions_BL))
    loss(logits_BLV, labels_BL, torch.tensor((targets_BL != -100).sum()))
    ours = group_losses(taken_from(loss), STREAMS)
    by_hand = losses_by_hand(transformers_twin(family, model)(inputs_BL).logits, targets_BL, stream_B)
    assert set(ours) == set(by_hand)
    for name, group in ours.items():
        assert group.mean == pytest.approx(by_hand[name], rel=1e-4), name


def test_the_loss_is_the_sum_over_trained_tokens_over_their_global_number() -> None:
    inputs_BL, labels_BL, targets_BL, _ = batch()
    logits_BLV = torch.randn(*inputs_BL.shape, NUM_ROWS, generator=torch.Generator().manual_seed(3))
    value, metrics = loss_config().build()(logits_BLV, labels_BL, torch.tensor(1000))
    expected = torch.nn.functional.cross_entropy(
        logits_BLV.flatten(0, 1), torch.from_numpy(targets_BL).flatten(), reduction="sum", ignore_index=-100
    )
    torch.testing.assert_close(value, expected / 1000)
    assert metrics == {}


def test_a_batch_without_trained_tokens_adds_nothing() -> None:
    loss = loss_config().build()
    value, _ = loss(torch.randn(2, 8, NUM_ROWS), torch.full((2, 8), -100), torch.tensor(5))
    assert value == 0
    assert group_losses(taken_from(loss), STREAMS) == {}


def test_groups_start_again_after_they_are_taken() -> None:
    loss = loss_config().build()
    inputs_BL, labels_BL, targets_BL, _ = batch()
    logits_BLV = torch.randn(*inputs_BL.shape, NUM_ROWS)
    taken = []
    for _ in range(2):
        loss(logits_BLV, labels_BL, None)
        taken.append(taken_from(loss))
    assert torch.equal(taken[0], taken[1])
    assert taken[0][1].sum() == (targets_BL != -100).sum()


def test_a_step_that_is_not_sound_leaves_no_trace_in_the_groups() -> None:
    loss = loss_config().build()
    inputs_BL, labels_BL, *_ = batch()
    logits_BLV = torch.randn(*inputs_BL.shape, NUM_ROWS)
    loss(logits_BLV, labels_BL, None)
    sound = taken_from(loss)
    loss(logits_BLV, labels_BL, None)
    loss.groups.commit(torch.tensor(True))
    loss(torch.full_like(logits_BLV, torch.nan), labels_BL, None)
    assert torch.equal(taken_from(loss, is_sound=False), sound)


@pytest.mark.parametrize("num_chunks", [1, 4])
def test_chunks_give_the_loss_groups_and_gradients_of_whole_logits(num_chunks: int) -> None:
    inputs_BL, labels_BL, targets_BL, _ = batch()
    hidden_BLD = torch.randn(*inputs_BL.shape, 16, generator=torch.Generator().manual_seed(4))
    head = torch.nn.Linear(16, NUM_ROWS, bias=False)
    num_valid = torch.tensor((targets_BL != -100).sum())
    whole, chunked = (
        loss_config().build(),
        ChunkedLossWrapper.Config(num_chunks=num_chunks, loss_fn=loss_config()).build(),
    )
    chunked.set_lm_head(head)

    results = []
    for compute in (
        lambda hidden: whole(head(hidden), labels_BL, num_valid),
        lambda hidden: chunked(hidden, labels_BL, num_valid),
    ):
        head.weight.grad = None
        hidden = hidden_BLD.clone().requires_grad_()
        value, _ = compute(hidden)
        value.backward()
        results.append((value.detach(), hidden.grad, head.weight.grad))
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(taken_from(chunked.loss_fn), taken_from(whole))
