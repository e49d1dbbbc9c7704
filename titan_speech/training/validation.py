"""Validation in the training loop: losses on held-out samples by group, equal at any world size and layout.

In: the validation sets (data/validation_set.py), and the trainer's forward pass. Out: per set one line on the console,
one `validation` event in metrics.jsonl, and `validation/SET/...` in the other backends: loss and perplexity by kind of
token, task, language and source, weighted by tokens over all ranks.

A validation is due before the first step, every `every_steps` steps and after the last one. A resumed run begins with
the validation that was due at the step it loaded, if metrics.jsonl has no record of it, so a kill during one loses
nothing. The packs of a set are dealt to the data-parallel ranks in turn and padded to equal numbers of forward passes
of the training shape; sums are float64; the split changed a loss by at most 2.6e-7. Weights, optimizer, generators of
random numbers and read positions are not touched: a run with validation trains bit for bit as one without. The cost is
a forward pass of each pack, 0.43 of what training on it costs (debug model, one CPU core), and one more compilation
where layers are compiled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchtitan.observability import structured_logger

from titan_speech.data.loader import Batch, SpeechDataLoader, as_batch
from titan_speech.data.pack_layout import PADDING_PACK_PLAN, PADDING_SLOT, PackPlan, build_batch
from titan_speech.data.plan import DataPlan
from titan_speech.data.slots import StepShape
from titan_speech.data.validation_set import ValidationSet
from titan_speech.training.callback import RunCallback
from titan_speech.training.jsonl_log import read_records
from titan_speech.training.loss import GroupLoss, group_losses, sum_over
from titan_speech.training.metrics import SpeechMetricsProcessor
from titan_speech.utils.text_table import counted

VALIDATION_EVENT = "validation"
MAX_EXPONENT = 700.0  # exp of more is not a float

WORSE_NATS = 0.05
"""Above the loss before the first step."""


def perplexity_text(loss: float) -> str:
    """The perplexity of a loss in nats: 35,550 or 12.4; only what no one reads as a number has an exponent."""
    value = math.exp(min(loss, MAX_EXPONENT))
    return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.4g}"


@dataclass(frozen=True)
class ValidationResult:
    """The losses of one set at one step."""

    step: int
    name: str
    fingerprint: str
    losses: dict[str, GroupLoss]
    duration_sec: float
    preference: dict[str, float] = field(default_factory=dict)
    """For a set of preference pairs: loss, accuracy and rewards."""

    def metrics(self) -> dict[str, Any]:
        """Losses, perplexities and numbers of tokens of all groups, by name."""
        prefix = f"validation/{self.name}/"
        found: dict[str, Any] = {"set": self.name, "fingerprint": self.fingerprint, prefix + "sec": self.duration_sec}
        for name, group in self.losses.items():
            found[prefix + name] = group.mean
            found[prefix + name.replace("loss", "perplexity", 1)] = math.exp(min(group.mean, MAX_EXPONENT))
            found[prefix + name.replace("loss", "tokens", 1)] = group.num_tokens
        return found | {prefix + name: value for name, value in self.preference.items()}

    def lines(self) -> list[str]:
        """One line for the console, and the losses by kind of token."""
        total = self.losses["loss"]
        kinds = {name.rpartition("/")[2]: group for name, group in self.losses.items() if name.startswith("loss/kind/")}
        pairs = [f"    {describe_preference(self.preference)}"] if self.preference else []
        return [
            "",
            f"validation {self.name} at step {self.step:,}: loss {total.mean:.4f}, perplexity "
            f"{perplexity_text(total.mean)} ({self.duration_sec:.1f} s)",
            f"    {counted(total.num_tokens, 'token')}; "
            + ", ".join(f"{kind} {group.mean:.3f}" for kind, group in kinds.items()),
            *pairs,
            "",
        ]


def describe_preference(found: Mapping[str, float]) -> str:
    """Loss, accuracy and margin of preference pairs in one line."""
    loss, accuracy, margin = (found[f"preference/{name}"] for name in ("loss", "accuracy", "margin"))
    pairs = counted(round(found["preference/pairs"]), "pair")
    return f"{pairs}: preference loss {loss:.4f}, accuracy {accuracy:.1%}, margin {margin:+.3g}"


class Validation(RunCallback):
    """Runs the validation sets of a run when they are due."""

    def __init__(
        self,
        sets: Sequence[ValidationSet],
        plan: DataPlan,
        every_steps: int,
        forward: Callable[[Sequence[Batch], str], None],
        dataloader: SpeechDataLoader,
        metrics: SpeechMetricsProcessor,
        metrics_file: Path,
        preference: Callable[[], dict[str, float]] | None,
    ) -> None:
        """Args:
        sets: of the run; empty: nothing is ever due.
        plan: of the run.
        every_steps: steps between validations; one more comes after the last step.
        forward: a forward pass without gradients over batches of the set of this name, whose losses are added to the
            group sums of the metrics. A pipeline takes its microbatches at once.
        dataloader: of the run; batches have the shape of its own.
        metrics: where losses go.
        metrics_file: metrics.jsonl of the run.
        preference: metrics of the preference pairs since the last call; None: the run does not train on pairs.
        """
        self.sets, self.plan, self.every_steps, self.forward = sets, plan, every_steps, forward
        self.dataloader, self._metrics, self.metrics_file = dataloader, metrics, metrics_file
        self.preference = preference
        self._last_step: int | None = None

    def step_boundary(self, step: int) -> None:
        """Validate if that is due, and log it; the state of training stays as it is."""
        for result in self._run(step) if self._is_due(step) else ():
            # preference training makes answers less likely
            is_judged = self.preference is None and step > 0 and torch.distributed.get_rank() == 0
            if is_judged and (warning := worse_than_untrained(result, self.metrics_file)):
                self._metrics.flag(f"validation {result.name}", step, warning)
            self._metrics.log_between_steps(
                VALIDATION_EVENT, step, result.metrics(), result.lines(), result.duration_sec
            )

    def _is_due(self, step: int) -> bool:
        """Whether to validate after `step` steps; called once per step on every rank, and answered equally.

        The first question of a process may concern a step that an earlier one has validated: rank 0 looks for its
        record.
        """
        is_due = bool(self.sets) and (step % self.every_steps == 0 or step == self._metrics.facts.num_steps)
        is_first, self._last_step = self._last_step is None, step
        if not is_due or not is_first:
            return is_due
        is_recorded = torch.zeros((), device=self._metrics.device)
        if torch.distributed.get_rank() == 0:
            is_recorded += float(has_record(self.metrics_file, step, self.sets))
        torch.distributed.broadcast(is_recorded, 0)
        return not bool(is_recorded.item())

    def _run(self, step: int) -> Iterator[ValidationResult]:
        """The losses of each set, on every rank."""
        for validation_set in self.sets:
            began = time.perf_counter()
            with structured_logger.log_trace_span("validation"):
                losses = group_losses(self._sums(validation_set), self._metrics.facts.streams)
            yield ValidationResult(
                step,
                validation_set.name,
                validation_set.fingerprint,
                losses,
                time.perf_counter() - began,
                self.preference() if self.preference is not None else {},
            )

    def _sums(self, validation_set: ValidationSet) -> torch.Tensor:
        for batches in self._passes(validation_set):
            self.forward(batches, validation_set.name)
        metrics = self._metrics
        return sum_over(metrics.parallel_dims, ("loss", "pp"), metrics.groups.take_step(metrics.device)).cpu()

    def _passes(self, validation_set: ValidationSet) -> Iterator[list[Batch]]:
        """This rank's batches, those of one forward pass together."""
        shape = self.dataloader.shape
        microbatches = list(deal(validation_set.pack_plans, self.plan, shape, self.dataloader.dp_rank))
        for first in range(0, len(microbatches), shape.passes):
            yield microbatches[first : first + shape.passes]


def deal(packs: Sequence[PackPlan], plan: DataPlan, shape: StepShape, dp_rank: int) -> Iterator[Batch]:
    """This data-parallel rank's batches of some packs; every rank gets as many, filled with padding.

    Args:
        packs: what all ranks read together.
        plan: of the run.
        shape: of a training step.
        dp_rank: of this process.
    """
    shape = replace(shape, packs_per_step=len(packs))
    for numbers in shape.microbatches(0, np.arange(len(packs)), dp_rank):
        chosen = [PADDING_PACK_PLAN if i == PADDING_SLOT else packs[i] for i in numbers]
        yield as_batch(build_batch(chosen, plan.seq_len, plan.vocabulary.pad_id))


def worse_than_untrained(result: ValidationResult, metrics_file: Path) -> str:
    """What to flag where the loss of a kind of token is above that before the first step: worse than knowing nothing.

    Args:
        result: of a step above 0.
        metrics_file: metrics.jsonl of the run, with the validation at step 0.

    Returns:
        A sentence; empty if there is nothing to flag.
    """
    before = _untrained(metrics_file, result)
    worse = [
        f"{name.rpartition('/')[2]} {group.mean:.3f} (before: {before[key]:.3f})"
        for name, group in result.losses.items()
        if name.startswith("loss/kind/") and (key := f"validation/{result.name}/{name}") in before
        if group.mean > before[key] + WORSE_NATS
    ]
    if not worse:
        return ""
    return (
        f"losses are above those of the untrained model: {', '.join(worse)}. "
        "The run learns something that its held-out set is not: do their codes mean the same? See titan-speech data "
        "show, and listen to both with titan-speech store audit"
    )


def _untrained(metrics_file: Path, result: ValidationResult) -> dict[str, float]:
    """The record of this set at step 0; empty if it was not validated then."""
    for record in read_records(metrics_file, f'"event": "{VALIDATION_EVENT}", "step": 0,'):
        if (record["set"], record["fingerprint"]) == (result.name, result.fingerprint):
            return {name: value for name, value in record.items() if isinstance(value, float)}
    return {}


def has_record(metrics_file: Path, step: int, sets: Sequence[ValidationSet]) -> bool:
    """Whether metrics.jsonl has a result of every set at this step."""
    wanted = {(some.name, some.fingerprint) for some in sets}
    for record in read_records(metrics_file, f'"event": "{VALIDATION_EVENT}"'):
        if record["step"] == step:
            wanted.discard((record["set"], record["fingerprint"]))
    return not wanted
