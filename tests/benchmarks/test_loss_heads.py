"""What a head of the loss is counted at: every operator, those inside torch's own head too."""

from __future__ import annotations

import pytest
import torch

from benchmarks.deviceless.head_counter import HeadCounter
from benchmarks.loss_head_kinds import PER_TOKEN, available_heads
from benchmarks.loss_heads import exact_gradients, measure, problem

SIZES = NUM_TOKENS, DIM, NUM_ROWS = 64, 16, 512
HEADS = available_heads()


def counted(name: str) -> HeadCounter:
    hidden, head, ids = problem(*SIZES, "cpu")
    counter = HeadCounter(NUM_TOKENS)
    with counter:
        HEADS[name](hidden, head, ids).backward()
    return counter


def test_full_logits_take_three_products_and_hold_all_logits() -> None:
    counter = counted("full")
    assert counter.num_products == 3
    assert counter.peak_bytes > 2 * NUM_TOKENS * NUM_ROWS * 2, "bf16 logits and their gradient"
    assert counter.num_host_syncs == 0


def test_chunks_take_three_products_each_and_hold_fewer_logits() -> None:
    chunked, full = counted("chunked"), counted("full")
    assert chunked.num_products == 8 * 3
    assert chunked.num_launches > full.num_launches
    assert chunked.peak_bytes < full.peak_bytes


@pytest.mark.parametrize("name", [name for name in HEADS if name.startswith("torch")])
def test_the_inside_of_torchs_head_is_counted(name: str) -> None:
    counter = counted(name)
    assert counter.num_launches > 2 * counter.num_products
    per_chunk = 4 if PER_TOKEN[name] else 3  # for losses of tokens logits are computed twice
    assert counter.num_products % per_chunk == 0
    assert counter.num_products > per_chunk


def test_gradients_are_compared_with_fp64() -> None:
    result = measure("chunked", HEADS["chunked"], SIZES, 1, "cpu")
    assert 0 < result.weight_error < 0.02
    assert result.gives_losses_of_tokens
    exact, _ = exact_gradients(SIZES, "cpu")
    assert exact.dtype == torch.float64


def test_a_value_that_python_waits_for_is_counted() -> None:
    counter = HeadCounter(NUM_TOKENS)
    with counter:
        assert torch.ones(3).sum().item() == 3
    assert counter.num_host_syncs == 1
