"""What a run does, derived from its budget in tokens.

In: the `training`, `optimizer` and `lr_scheduler` tables. Out: a frozen `Budget`: packs a step, steps,
warmup, the learning rate of every step in closed form, and, for a given data-parallel degree, accumulation
and filler packs.

Nothing but accumulation and fillers depends on the number of ranks, so the same file gives the same batches
and the same schedule on 8 or on 64. Where the ranks do not divide a step it is filled up with packs nobody
trains on: 256 packs on 24 ranks at 8 packs each are 2 accumulation steps with 128 fillers, exact but a third
of the work wasted; `describe` shows it.

Steps are counted from 0: step t trains slots [t * P, (t + 1) * P) with learning_rate(t). The last warmup step
has exactly `lr`, the last step exactly `end_lr`; cosine in TorchTitan has a virtual extra step and only
approaches it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_parallelism import ParallelismConfig
from titan_speech.utils.text_table import table_lines


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Figures of one stage; equal at any world size."""

    seq_len: int
    packs_per_step: int
    target_tokens: int
    num_steps: int
    warmup_steps: int
    frozen_steps: int
    """Steps at the beginning in which only new vocabulary rows learn."""
    local_batch_packs: int
    lr: float
    end_lr: float
    decay: Literal["cosine", "linear", "constant"]

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
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Budget | None:
        """From what was kept beside a checkpoint; None if that was another version's."""
        known = {field.name for field in fields(cls)}
        return cls(**record) if set(record) == known else None

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

    def tokens_seen(self, steps_done: int) -> int:
        """Tokens trained on after that many steps, padding included, fillers not."""
        return steps_done * self.tokens_per_step

    def slots(self, step: int) -> range:
        """The global slots of one step."""
        return range(step * self.packs_per_step, (step + 1) * self.packs_per_step)

    def accumulation(self, dp_degree: int) -> int:
        """Forward-backward passes of each rank in one step."""
        return num_microbatches(self.packs_per_step, dp_degree, self.local_batch_packs)

    def filler_packs(self, dp_degree: int) -> int:
        """Packs a step computes only because the ranks do not divide it."""
        computed = self.accumulation(dp_degree) * dp_degree * self.local_batch_packs
        return computed - self.packs_per_step

    @property
    def peak_step(self) -> int:
        """The last warmup step; without warmup the first step."""
        return max(self.warmup_steps, 1) - 1

    def learning_rate(self, step: int) -> float:
        """Linear up to `lr` at the peak step, then decay to `end_lr` at the last step, where it stays."""
        assert step >= 0, f"step {step} is below 0"
        if step <= self.peak_step:
            return self.lr * ((step + 1) / (self.peak_step + 1))
        last = self.num_steps - 1
        done = (step - self.peak_step) / (last - self.peak_step) if step < last else 1.0
        return self.end_lr + (self.lr - self.end_lr) * self._remaining(done)

    def _remaining(self, done: float) -> float:
        """Part of the way from `lr` down to `end_lr` still to go: 1 at the peak, 0 at the end."""
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        return 1 - done  # for "constant" both ends are equal

    def lr_factor(self, step: int) -> float:
        """`learning_rate` as a multiple of `lr`, for parameter groups with their own peak."""
        return self.learning_rate(step) / self.lr

    @property
    def final_lr(self) -> float:
        """Learning rate of the last step: what the next stage's peak is compared with."""
        return self.learning_rate(self.num_steps - 1)


def num_microbatches(packs_per_step: int, dp_degree: int, local_batch_packs: int) -> int:
    """The fewest microbatches in which all ranks together compute a step."""
    return -(-packs_per_step // (dp_degree * local_batch_packs))


def data_parallel_degree(parallelism: ParallelismConfig, world_size: int) -> int:
    """Ranks that read different data: all but those that share a sequence or hold other layers."""
    shared = ranks_of_one_replica(parallelism)
    assert world_size % shared == 0, f"{shared} ranks that read the same data do not divide {world_size}"
    return world_size // shared


def ranks_of_one_replica(parallelism: ParallelismConfig) -> int:
    """Ranks that read the same data: tensor x context x pipeline."""
    return (
        parallelism.tensor_parallel_degree * parallelism.context_parallel_degree * parallelism.pipeline_parallel_degree
    )


def smallest_world(parallelism: ParallelismConfig) -> int:
    """The fewest processes that the degrees allow."""
    replicate, shard = parallelism.data_parallel_replicate_degree, parallelism.data_parallel_shard_degree
    return replicate * max(shard, 1) * ranks_of_one_replica(parallelism)


def describe_budget(config: SpeechConfig, world_size: int | None = None) -> str:
    """The derived figures as the lines printed when a run starts."""
    budget = Budget.from_config(config)
    rows = [
        (
            "tokens a step",
            f"{budget.tokens_per_step:,} = {budget.packs_per_step:,} packs x {budget.seq_len:,}",
        ),
        (
            "steps",
            f"{budget.num_steps:,} for {budget.target_tokens:,} tokens ({budget.total_tokens:,} trained)",
        ),
        ("learning rate", _schedule(budget)),
        *_new_rows(config, budget),
        *((f"  {name}", tokens) for name, tokens in _source_tokens(config, budget)),
    ]
    if world_size is not None:
        rows.append(_ranks(budget, data_parallel_degree(config.parallelism, world_size), world_size))
    return "\n".join(table_lines(rows))


def _schedule(budget: Budget) -> str:
    shape = f"{budget.decay} to {budget.end_lr:g} at step {budget.num_steps - 1:,}"
    if budget.decay == "constant":
        shape = "constant after it"
    return f"{budget.lr:g} at step {budget.peak_step:,} (warmup {budget.warmup_steps:,} steps), {shape}"


def _new_rows(config: SpeechConfig, budget: Budget) -> list[tuple[str, str]]:
    """What is special about new vocabulary rows, if anything is."""
    factor, rows = config.optimizer.new_rows_lr_factor, []
    if factor != 1:
        rows.append(("new rows", f"at {factor:g} times the rate"))
    if budget.frozen_steps:
        rows.append(("backbone", f"frozen for {budget.frozen_steps:,} steps, in which only new rows learn"))
    return rows


def _source_tokens(config: SpeechConfig, budget: Budget) -> list[tuple[str, str]]:
    total = budget.total_tokens
    return [
        (source.name, f"{round(source.share * total):,} tokens ({source.share:.4g}), {source.task}")
        for source in config.data.source
    ]


def _ranks(budget: Budget, dp_degree: int, world_size: int) -> tuple[str, str]:
    passes, fillers = budget.accumulation(dp_degree), budget.filler_packs(dp_degree)
    wasted = f", {fillers:,} filler packs" if fillers else ""
    each = f"{passes:,} x {budget.local_batch_packs:,} packs"
    return "ranks", f"{world_size:,}, {dp_degree:,} of them data-parallel: {each} each a step{wasted}"
