"""What is derived from a budget in tokens, and that no number of ranks changes it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_speech.config.budget import Budget, data_parallel_degree, describe_budget
from titan_speech.config.schema import SpeechConfig, StageConfig
from titan_speech.config.schema_data import DataConfig, SourceConfig
from titan_speech.config.schema_parallelism import ParallelismConfig
from titan_speech.config.schema_training import LRSchedulerConfig, OptimizerConfig, TrainingConfig

PT_S1 = SpeechConfig(
    training=TrainingConfig(seq_len=2048, global_batch_tokens=524_288, target_tokens=200_000_000_000),
    optimizer=OptimizerConfig(lr=1.2e-4),
    lr_scheduler=LRSchedulerConfig(warmup_ratio=0.1, end_lr=3e-5),
)


def budget(
    num_steps: int, warmup_ratio: float, decay: str = "cosine", lr: float = 1e-3, decay_ratio: float = 1.0
) -> Budget:
    training = TrainingConfig(seq_len=2, global_batch_tokens=4, target_tokens=4 * num_steps)
    shape = {"decay": decay, "decay_ratio": decay_ratio}
    schedule = LRSchedulerConfig(warmup_ratio=warmup_ratio, end_lr=lr / 7, **shape)  # type: ignore[arg-type]
    return Budget.from_config(SpeechConfig(training=training, optimizer=OptimizerConfig(lr=lr), lr_scheduler=schedule))


def test_steps_follow_from_tokens_alone() -> None:
    plan = Budget.from_config(PT_S1)
    assert plan.packs_per_step == 256
    assert plan.num_steps == math.ceil(200_000_000_000 / 524_288) == 381_470
    assert plan.warmup_steps == 38_147
    assert plan.tokens_per_step == 524_288
    assert plan.total_tokens - plan.target_tokens < plan.tokens_per_step
    assert plan.total_slots == 381_470 * 256


def test_the_budget_is_the_same_whatever_ranks_a_run_has() -> None:
    tables = [
        ParallelismConfig(tensor_parallel_degree=tp, context_parallel_degree=cp, data_parallel_replicate_degree=dp)
        for tp, cp, dp in [(1, 1, 1), (2, 1, 4), (4, 2, 8)]
    ]
    assert len({Budget.from_config(replace(PT_S1, parallelism=table)) for table in tables}) == 1


@pytest.mark.parametrize(
    ("dp_degree", "passes", "padding"), [(1, 32, 0), (8, 4, 0), (24, 2, 128), (64, 1, 256), (3, 11, 8)]
)
def test_a_step_is_padded_where_the_ranks_do_not_divide_it(dp_degree: int, passes: int, padding: int) -> None:
    plan = Budget.from_config(PT_S1)
    assert (plan.accumulation(dp_degree), plan.padding_packs(dp_degree)) == (passes, padding)


@given(st.integers(1, 5_000), st.integers(1, 300), st.integers(1, 32))
def test_all_packs_fit_and_no_pass_is_only_padding(packs: int, dp_degree: int, local: int) -> None:
    plan = replace(Budget.from_config(PT_S1), packs_per_step=packs, local_batch_packs=local)
    padding = plan.padding_packs(dp_degree)
    assert plan.accumulation(dp_degree) * dp_degree * local == packs + padding
    assert 0 <= padding < dp_degree * local


def test_data_parallel_ranks_are_those_that_do_not_share_a_sequence() -> None:
    table = ParallelismConfig(tensor_parallel_degree=2, context_parallel_degree=4)
    assert data_parallel_degree(table, 64) == 8
    assert data_parallel_degree(ParallelismConfig(), 3) == 3


def test_the_learning_rate_equals_the_closed_form_at_start_warmup_middle_and_end() -> None:
    plan = budget(num_steps=101, warmup_ratio=0.2, lr=2e-3)
    end = 2e-3 / 7
    assert plan.warmup_steps == 20
    assert plan.learning_rate(0) == 2e-3 / 20
    assert plan.learning_rate(9) == pytest.approx(2e-3 / 2, rel=1e-15)
    assert plan.learning_rate(19) == 2e-3
    middle = 19 + 81 / 2
    for step in (20, 40, 59, 60, 90):
        expected = end + (2e-3 - end) * (1 + math.cos(math.pi * (step - 19) / 81)) / 2
        assert plan.learning_rate(step) == pytest.approx(expected, rel=1e-14)
    mean = (plan.learning_rate(int(middle)) + plan.learning_rate(int(middle) + 1)) / 2
    assert mean == pytest.approx((2e-3 + end) / 2, rel=1e-12)
    assert plan.learning_rate(100) == end
    assert plan.final_lr == end
    assert plan.learning_rate(101) == end  # asked for once more after the last step


def test_linear_decay_falls_by_equal_amounts_and_constant_does_not_fall() -> None:
    linear = budget(num_steps=50, warmup_ratio=0.1, decay="linear")
    drops = [linear.learning_rate(t) - linear.learning_rate(t + 1) for t in range(4, 49)]
    assert drops == pytest.approx([drops[0]] * len(drops), rel=1e-9)
    constant = budget(num_steps=50, warmup_ratio=0.1, decay="constant")
    assert {constant.learning_rate(t) for t in range(4, 60)} == {1e-3}
    assert constant.final_lr == 1e-3


@pytest.mark.parametrize(
    ("decay", "remaining"),
    [
        ("cosine", lambda x: (1 + math.cos(math.pi * x)) / 2),
        ("linear", lambda x: 1 - x),
        ("sqrt", lambda x: 1 - x**0.5),
    ],
)
def test_wsd_is_stable_between_warmup_and_the_last_steps_which_decay_in_closed_form(decay: str, remaining) -> None:
    plan = budget(num_steps=100, warmup_ratio=0.1, decay=decay, lr=7e-3, decay_ratio=0.2)
    assert {plan.learning_rate(step) for step in range(9, 80)} == {7e-3}
    assert (plan.peak_step, plan.last_stable_step) == (9, 79)
    for step in range(80, 100):
        expected = 1e-3 + 6e-3 * remaining((step - 79) / 20)
        assert plan.learning_rate(step) == pytest.approx(expected, rel=1e-12), step
    assert plan.learning_rate(99) == plan.final_lr == plan.end_lr
    assert plan.learning_rate(80) < 7e-3


def test_the_decay_begins_after_warmup_at_the_earliest_and_takes_at_least_one_step() -> None:
    assert budget(num_steps=100, warmup_ratio=0.5, decay_ratio=0.9).last_stable_step == 49
    plan = budget(num_steps=100, warmup_ratio=0.1, decay_ratio=1e-6)
    assert (plan.learning_rate(98), plan.learning_rate(99)) == (plan.lr, plan.end_lr)


def test_a_branch_knows_the_steps_that_are_done_by_the_name_of_its_checkpoint() -> None:
    place = "s3://runs/stable/checkpoint/step-300000"
    branches = [StageConfig(from_=named, branch=True) for named in (place, f"{place}/", "outputs/stable")]
    assert [one.num_done for one in (*branches, StageConfig(from_=place))] == [300_000, 300_000, 0, 0]


SCHEDULES = st.builds(
    budget,
    num_steps=st.integers(1, 3_000),
    warmup_ratio=st.floats(0, 1),
    decay=st.sampled_from(["cosine", "linear", "sqrt", "constant"]),
    lr=st.floats(1e-7, 1),
    decay_ratio=st.floats(1e-3, 1),
)


@given(SCHEDULES)
def test_any_schedule_rises_to_exactly_the_peak_and_falls_to_exactly_the_end(plan: Budget) -> None:
    rates = [plan.learning_rate(step) for step in range(plan.num_steps)]
    peak = plan.peak_step
    assert rates[peak] == plan.lr == max(rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if peak < plan.num_steps - 1:
        assert rates[-1] == plan.end_lr == plan.final_lr
    assert all(rate > 0 for rate in rates)
    assert plan.lr_factor(peak) == 1.0


def test_without_warmup_the_first_step_has_the_peak() -> None:
    plan = budget(num_steps=10, warmup_ratio=0.0)
    assert (plan.learning_rate(0), plan.final_lr) == (plan.lr, plan.end_lr)


def test_warmup_over_all_steps_ends_at_the_peak() -> None:
    plan = budget(num_steps=10, warmup_ratio=1.0)
    assert plan.learning_rate(9) == plan.lr


def test_the_description_says_steps_schedule_sources_and_what_padding_cost() -> None:
    data = DataConfig(source=(SourceConfig(name="speech", store="s", task="speech", share=1.0),))
    text = describe_budget(replace(PT_S1, data=data), world_size=24)
    assert "524,288 = 256 packs x 2,048" in text
    assert "381,470 for 200,000,000,000 tokens" in text
    assert "0.00012 at step 38,147 (warmup 38,147 steps), cosine to 3e-05 at step 381,470" in text
    assert "24, 24 of them data-parallel: 2 x 8 packs each per step, 128 padding packs" in text
    assert "speech" in text
    assert "ranks" not in describe_budget(replace(PT_S1, data=data))
    constant = replace(PT_S1, lr_scheduler=LRSchedulerConfig(decay="constant"))
    assert "constant after it" in describe_budget(constant)
