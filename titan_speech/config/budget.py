"""What a run does, derived from its token budget: steps, learning rates, gradient accumulation.

In: the `training`, `optimizer` and `lr_scheduler` tables. Out: a frozen `Budget`: packs per step, steps, warmup, the
learning rate of every step in closed form, and, for a given data-parallel degree, accumulation and padding packs.

Only accumulation and padding packs depend on the number of ranks, so the same file gives the same batches and the same
schedule on 8 or on 64. Where the ranks do not divide a step it is filled up with packs that are not trained on: 256
packs on 24 ranks at 8 packs each are 2 accumulation steps with 128 padding packs, exact, but a third of the work is
wasted; `describe_budget` shows it.

Steps are counted from 0: step t trains slots [t * P, (t + 1) * P) with learning_rate(t). The last warmup step has
exactly `lr`, the last step exactly `end_lr`; cosine in TorchTitan has a virtual extra step and only approaches it. With
a `decay_ratio` below 1 the rate is stable at `lr` until the last steps (WSD).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_parallelism import ParallelismConfig
from titan_speech.utils.text_table import counted, table_lines


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one stage does; equal at any world size."""

    seq_len: int
    packs_per_step: int
    target_tokens: int
    num_steps: int
    warmup_steps: int
    frozen_steps: int
    """Steps at the start during which the backbone is frozen and only new vocabulary rows are trained."""
    local_batch_packs: int
    lr: float
    end_lr: float
    decay: Literal["cosine", "linear", "sqrt", "constant"]
    decay_ratio: float = 1.0
    """Decay steps as a fraction of all steps."""

    @classmethod
    def from_config(cls, config: SpeechConfig) -> Budget:
        training, schedule = config.training, config.lr_scheduler
        num_steps = -(-training.target_tokens // training.global_batch_tokens)
        return cls(
            seq_len=training.seq_len,
            packs_per_step=training.global_batch_tokens // training.seq_len,
            target_tokens=training.target_tokens,
            num_steps=num_steps,
            warmup_steps=math.floor(schedule.warmup_ratio * num_steps + 0.5),
            frozen_steps=math.floor(config.optimizer.frozen_backbone_ratio * num_steps + 0.5),
            local_batch_packs=training.local_batch_packs,
            lr=config.optimizer.lr,
            end_lr=config.optimizer.lr if schedule.decay == "constant" else schedule.end_lr,
            decay=schedule.decay,
            decay_ratio=schedule.decay_ratio,
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Budget | None:
        """The budget saved with a checkpoint; None if another version saved it."""
        known = {field.name for field in fields(cls)}
        return cls(**record) if known - {"decay_ratio"} <= set(record) <= known else None

    @property
    def tokens_per_step(self) -> int:
        return self.packs_per_step * self.seq_len

    @property
    def total_tokens(self) -> int:
        """Tokens of all steps; up to one step more than the target."""
        return self.num_steps * self.tokens_per_step

    @property
    def total_slots(self) -> int:
        return self.num_steps * self.packs_per_step

    def accumulation(self, dp_degree: int) -> int:
        """Forward and backward passes per rank and step."""
        return num_microbatches(self.packs_per_step, dp_degree, self.local_batch_packs)

    def padding_packs(self, dp_degree: int) -> int:
        """Packs per step that are computed only because the ranks do not divide it."""
        computed = self.accumulation(dp_degree) * dp_degree * self.local_batch_packs
        return computed - self.packs_per_step

    @property
    def peak_step(self) -> int:
        """The last warmup step; without warmup the first step."""
        return max(self.warmup_steps, 1) - 1

    @property
    def last_stable_step(self) -> int:
        """The last step with `lr`, from which the rate decays; the peak step unless `decay_ratio` leaves more. Of a
        constant rate the last one of all."""
        if self.decay == "constant":
            return self.num_steps - 1
        num_decay_steps = max(1, math.floor(self.decay_ratio * self.num_steps + 0.5))
        return max(self.peak_step, self.num_steps - 1 - num_decay_steps)

    def learning_rate(self, step: int) -> float:
        """Linear up to `lr` at the peak step, stable until the decay begins, `end_lr` at the last step and after it."""
        assert step >= 0, f"step {step} is below 0"
        if step <= self.peak_step:
            return self.lr * ((step + 1) / (self.peak_step + 1))
        first, last = self.last_stable_step, self.num_steps - 1
        if step <= first:
            return self.lr
        done = (step - first) / (last - first) if step < last else 1.0
        return self.end_lr + (self.lr - self.end_lr) * self._remaining(done)

    def _remaining(self, done: float) -> float:
        """Remaining part of the decay from `lr` to `end_lr`: 1 at the peak, 0 at the end."""
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.decay == "sqrt":
            return 1 - math.sqrt(done)
        return 1 - done  # for "constant" both ends are equal

    def scaled(self, factor: float) -> Budget:
        """The same steps, with the rate of each times `factor`."""
        return replace(self, lr=factor * self.lr, end_lr=factor * self.end_lr)

    def lr_factor(self, step: int) -> float:
        """The learning rate of a step as a multiple of `lr`, for parameter groups with their own peak."""
        return self.learning_rate(step) / self.lr

    @property
    def final_lr(self) -> float:
        """Learning rate of the last step, with which the next stage's peak is compared."""
        return self.learning_rate(self.num_steps - 1)


def num_microbatches(packs_per_step: int, dp_degree: int, local_batch_packs: int) -> int:
    """Smallest number of microbatches per rank with which all ranks together compute a step."""
    return -(-packs_per_step // (dp_degree * local_batch_packs))


def data_parallel_degree(parallelism: ParallelismConfig, world_size: int) -> int:
    """Number of groups of ranks that read different data."""
    shared = ranks_per_replica(parallelism)
    assert world_size % shared == 0, f"{shared} ranks that read the same data do not divide {world_size}"
    return world_size // shared


def ranks_per_replica(parallelism: ParallelismConfig) -> int:
    """Ranks that read the same data: tensor x context x pipeline parallel."""
    within_layer = parallelism.tensor_parallel_degree * parallelism.context_parallel_degree
    return within_layer * parallelism.pipeline_parallel_degree


def smallest_world_size(parallelism: ParallelismConfig) -> int:
    """Smallest world size that fits the parallel degrees."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    return replicate * max(shard, 1) * ranks_per_replica(parallelism)


def describe_budget(config: SpeechConfig, world_size: int | None = None) -> str:
    """What follows from the token budget, as a table with the tokens of each source."""
    total_tokens = Budget.from_config(config).total_tokens
    sources = [
        (
            f"  {source.name}",
            f"{counted(round(source.share * total_tokens), 'token')} ({source.share:.4g}), {source.task}",
        )
        for source in config.data.source
    ]
    return "\n".join(table_lines([*budget_rows(config, world_size), *sources]))


def budget_rows(config: SpeechConfig, world_size: int | None = None) -> list[tuple[str, str]]:
    """What follows from the token budget: name and value."""
    budget = Budget.from_config(config)
    steps = f"{budget.num_steps:,} for {counted(budget.target_tokens, 'token')} ({budget.total_tokens:,} trained)"
    rows = [
        (
            "tokens per step",
            f"{budget.tokens_per_step:,} = {counted(budget.packs_per_step, 'pack')} x {budget.seq_len:,}",
        ),
        ("steps", steps),
        ("learning rate", _describe_schedule(budget)),
    ]
    if config.optimizer.new_rows_lr_factor != 1:
        rows.append(("new rows", f"at {config.optimizer.new_rows_lr_factor:g} times the learning rate"))
    if budget.frozen_steps:
        rows.append(
            ("backbone", f"frozen for {counted(budget.frozen_steps, 'step')}, in which only new rows are trained")
        )
    if world_size is not None:
        rows.append(
            ("ranks", _describe_ranks(budget, data_parallel_degree(config.parallelism, world_size), world_size))
        )
    return rows


def _describe_schedule(budget: Budget) -> str:
    decay = f"{budget.decay} to {budget.end_lr:g} at step {budget.num_steps:,}"
    if budget.decay == "constant":
        decay = "constant after it"
    elif budget.last_stable_step > budget.peak_step:
        decay = f"stable until step {budget.last_stable_step + 1:,}, {decay}"
    peak = budget.peak_step + 1  # people and logs count steps from 1
    return f"{budget.lr:g} at step {peak:,} (warmup {counted(budget.warmup_steps, 'step')}), {decay}"


def _describe_ranks(budget: Budget, dp_degree: int, world_size: int) -> str:
    passes, padding = budget.accumulation(dp_degree), budget.padding_packs(dp_degree)
    wasted = f", {counted(padding, 'padding pack')}" if padding else ""
    each = f"{passes:,} x {counted(budget.local_batch_packs, 'pack')}"
    return f"{world_size:,}, {dp_degree:,} of them data-parallel: {each} each per step{wasted}"
