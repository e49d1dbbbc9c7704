"""Metrics of a log step: losses per group, throughput, padding and memory, to console, metrics.jsonl and sinks.

In: each batch on its way from the loader to the model, the trainer's loss and gradient norm, the sums per group of the
loss, and what callbacks add. Out: one record in every logger, and a row on the console of rank 0 (console.py).
Counting a batch is a few numpy passes over its ids, 0.15 ms for 16,384 tokens. A log step costs two small all-reduces;
between log steps nothing is synchronized.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.observability import structured_logger
from torchtitan.protocols import BaseModel
from torchtitan.tools.logging import logger

from titan_speech.config.schema_operations import MetricsConfig
from titan_speech.model.flops import FlopsPerToken
from titan_speech.tokenization.vocabulary import CODES_PER_SEC, Vocabulary
from titan_speech.training.console import RunConsole
from titan_speech.training.jsonl_log import JsonlLogger, read_records
from titan_speech.training.loss import GroupSums, StreamKey, group_losses, sum_over
from titan_speech.training.mixture_check import MixtureCheck, tokens_read
from titan_speech.training.sinks.build import build_sinks
from titan_speech.training.sinks.sink import Message, Sample


@dataclass(frozen=True)
class BatchCounts:
    """Sums over batches; padding packs (without any document) are not counted."""

    num_tokens: int = 0
    """Positions of packs with documents, padding included."""

    num_trained_tokens: int = 0
    """Positions with a label."""

    num_pad_tokens: int = 0
    """Padding at the end of packs with documents."""

    num_codes: int = 0
    """Speech codes among the inputs."""

    sum_squared_lengths: int = 0
    """Sum over documents of their squared length, to which the cost of attention inside documents is proportional."""

    def __add__(self, other: BatchCounts) -> BatchCounts:
        return BatchCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def audio_sec(self) -> float:
        return self.num_codes / CODES_PER_SEC

    def to_tensor(self, device: torch.device) -> torch.Tensor:
        return torch.tensor(astuple(self), dtype=torch.float64, device=device)

    @classmethod
    def from_tensor(cls, sums: torch.Tensor) -> BatchCounts:
        return cls(*(int(value) for value in sums.tolist()))


def count_batch(
    ids_BL: torch.Tensor, positions_BL: torch.Tensor, labels_BL: torch.Tensor, vocabulary: Vocabulary
) -> BatchCounts:
    """Counts of one batch, given as the loader yields it (on the CPU)."""
    ids, positions, trained = ids_BL.numpy(), positions_BL.numpy(), labels_BL.numpy() >= 0
    is_pad = ids == vocabulary.pad_id
    is_real_pack = ~is_pad.all(axis=1)
    positions = positions[is_real_pack].reshape(-1)
    lengths = np.diff(np.append(np.flatnonzero(positions == 0), positions.size))
    return BatchCounts(
        num_tokens=int(is_real_pack.sum()) * ids.shape[1],
        num_trained_tokens=int(trained.sum()),
        num_pad_tokens=int(is_pad[is_real_pack].sum()),
        num_codes=int(vocabulary.is_code(ids).sum()),
        sum_squared_lengths=int((lengths.astype(np.int64) ** 2).sum()),
    )


def counted_flops(config: BaseModel.Config) -> FlopsPerToken:
    """FLOPs per token of the whole model, built without memory since a pipeline rank has only a part of it.

    TorchTitan's count is linear in the sequence length, so two lengths give its constant and its slope. The weights of
    a frozen layer, a tied head among them, need no gradients of their own, which are 2 of their 6 FLOPs.
    """
    with torch.device("meta"):
        model = cast(BaseModel, config.build())
    _, flops_at_1 = config.get_nparams_and_flops(model, 1)
    _, flops_at_2 = config.get_nparams_and_flops(model, 2)
    weights = (module.weight for module in model.modules() if isinstance(module, torch.nn.Linear))
    num_frozen = sum(weight.numel() for weight in weights if not weight.requires_grad)
    per_position = flops_at_2 - flops_at_1
    return FlopsPerToken(matrices=flops_at_1 - per_position - 2 * num_frozen, per_attended_token=per_position)


KNOWN_PEAKS = ("A100", "A6000", "H100", "H200", "H20", "B200", "B300", "MI250X", "MI300X", "MI325X", "MI355X", "l40s")
"""Devices whose peak FLOP/s TorchTitan knows; for others it assumes an A100, so no MFU is reported."""


@dataclass(frozen=True)
class RunFacts:
    """Constants of the run that the metrics need."""

    streams: list[StreamKey]
    seq_len: int
    num_steps: int
    global_batch_tokens: int
    flops: FlopsPerToken
    planned_packs: Callable[[int, int], NDArray[np.int64]]
    """(after, until) -> packs of each stream that the data plan gives the steps after + 1 to until."""


class SpeechMetricsProcessor(MetricsProcessor):
    """TorchTitan's metrics with groups, trained tokens, audio seconds, padding, and MFU at both lengths."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        disable_color_printing: bool = True
        group_table_every: int = 10
        table: MetricsConfig
        from_step: int
        """Steps that were done before this start."""

    def __init__(self, config: Config, *, dump_folder: str = "./outputs", **kwargs: Any) -> None:
        super().__init__(config, dump_folder=dump_folder, **kwargs)
        self.jsonl: JsonlLogger | None = None
        self.console: RunConsole | None = None
        """Set on rank 0; the others show nothing."""
        path = Path(dump_folder) / "metrics.jsonl"
        is_first_rank = torch.distributed.get_rank() == 0  # the one that logs; also where no save was ever reached
        earlier = [one for one in read_records(path) if "step" in one] if is_first_rank else []
        self.logged_step = max((one["step"] for one in earlier if "event" not in one), default=-1)
        self.last_event_step = max((one["step"] for one in earlier), default=-1)
        """The last step of an event of earlier starts, whose steps this one may repeat."""
        self.sinks = build_sinks(config.table, Path(dump_folder), kwargs.get("config_dict") or {}, config.from_step)
        """Where metrics go besides the console and metrics.jsonl."""
        if is_first_rank:
            self.console = RunConsole(config.group_table_every)
            self.jsonl = JsonlLogger(path)
        self.counts = BatchCounts()
        self.packs_S = np.zeros(0, np.int64)
        """Packs of each stream in the batches since the last log step."""
        self.last_logged_step = 0
        self.sources: list[Callable[[], dict[str, float]]] = []
        """Functions that return more metrics; called at each log step on every rank."""

    def attach(self, facts: RunFacts, groups: GroupSums, device: torch.device) -> None:
        """Set what exists only once the trainer is built."""
        self.facts, self.groups, self.device = facts, groups, device
        self.packs_S = np.zeros(len(facts.streams), np.int64)
        self.mixture = MixtureCheck(facts.streams)

    def start_at(self, step: int, announcement: str) -> None:
        """Log what the run starts from, and measure time from here on."""
        self.last_logged_step = step
        self.time_last_log = time.perf_counter()
        if self.console is not None:
            self.console.begin(step, self.facts.num_steps)
        if self.jsonl is not None:
            self.jsonl.event("start", step=step, start_from=announcement, world_size=self.world_size)

    @property
    def world_size(self) -> int:
        return self.parallel_dims.world_size

    def should_log(self, step: int) -> bool:
        return super().should_log(step) or step == self.facts.num_steps

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Called on every rank at a log step; `loss` and the groups cover all steps since the last one."""
        window_sec = time.perf_counter() - self.time_last_log
        sums_2SK = sum_over(self.parallel_dims, ("loss", "pp"), self.groups.take(self.device)).cpu()
        losses = group_losses(sums_2SK, self.facts.streams)
        counted = torch.cat((self.counts.to_tensor(self.device), torch.from_numpy(self.packs_S).to(self.device)))
        counted = sum_over(self.parallel_dims, ("batch",), counted).cpu()
        counts = BatchCounts.from_tensor(counted[: -len(self.packs_S)])
        packs_S = counted[-len(self.packs_S) :].long().numpy()
        if differs := self.mixture.compare(self.facts.planned_packs(self.last_logged_step, step), packs_S):
            self.flag("the mixture", step, "; ".join(differs))
        lr = max((v for k, v in (extra_metrics or {}).items() if k.startswith("lr/")), default=math.nan)
        metrics: dict[str, Any] = {
            "loss": math.nan,  # where every step since the last log was skipped
            **{name: group.mean for name, group in losses.items()},
            **{name.replace("loss", "trained_tokens", 1): group.num_tokens for name, group in losses.items()},
            **tokens_read(packs_S, self.facts.streams, self.facts.seq_len),
            "grad_norm": grad_norm,
            "lr": lr,
            "tokens_seen": step * self.facts.global_batch_tokens,
            **self._throughput(step, counts, window_sec),
            **self._memory(),
            **{name: value for source in self.sources for name, value in source().items()},
        }
        if self.jsonl is not None:
            self.jsonl.log(metrics, step)
            self.sinks.log(step, metrics, is_repeat=step <= self.logged_step)
        if self.console is not None:
            self.console.log_step(step, metrics, losses)
        self._start_window(step)

    def step_done(self, step: int) -> None:
        """Called after every step."""
        if self.console is not None:
            self.console.step_done(step)

    def close(self) -> None:
        """Close metrics.jsonl and remove the bar of the console; sinks stay open for the last message."""
        if self.jsonl is not None:
            self.jsonl.close()
        if self.console is not None:
            self.console.close()

    def log_between_steps(
        self, event: str, step: int, metrics: Mapping[str, Any], lines: Sequence[str], duration_sec: float
    ) -> None:
        """Log what was found between two steps; its time is not part of theirs, nor its tokens of the throughput.

        Args:
            event: its name in metrics.jsonl.
            step: steps done.
            metrics: numbers by name; text, which goes to metrics.jsonl alone, says what they are of.
            lines: for the console.
            duration_sec: the time it took.
        """
        self.time_last_log += duration_sec
        if self.console is not None:
            self.console.print(lines)
        if self.jsonl is not None:
            identity = {name: value for name, value in metrics.items() if isinstance(value, str)}
            is_repeat = self._is_repeat(event, step=step, **identity)
            self.jsonl.event(event, step=step, **metrics)
            numbers = {name: value for name, value in metrics.items() if name not in identity}
            self.sinks.log(step, numbers, is_repeat=is_repeat)

    def log_samples(self, event: str, step: int, samples: Sequence[Sample]) -> None:
        """Hand what the model generated after `step` steps to the sinks; those of rank 0 count.

        Args:
            event: the name in metrics.jsonl of what is logged of them afterwards.
            step: steps done.
            samples: to read and hear.
        """
        if self.jsonl is not None:
            self.sinks.samples(step, samples, is_repeat=self._is_repeat(event, step=step))

    def _is_repeat(self, event: str, *, step: int, **identity: str) -> bool:
        """Whether an earlier start has logged this event after this step; later steps need no look at the file."""
        return (
            self.jsonl is not None
            and step <= self.last_event_step
            and not self.jsonl.is_new(event, step=step, **identity)
        )

    def flag(self, what: str, step: int, text: str) -> None:
        """Tell people that a check has left its bounds: a warning, a `flagged` event, a message.

        Args:
            what: which check.
            step: steps done; a flag that an earlier start has raised at this step is not raised again.
            text: what was found.
        """
        if self.jsonl is None or not self.jsonl.is_new("flagged", step=step, what=what):
            return
        logger.warning(f"Flagged at step {step} by {what}: {text}")
        structured_logger.log_trace_instant("flagged")
        self.jsonl.event("flagged", step=step, what=what, message=text)
        self.sinks.message(Message("flagged", step, text, {"what": what}))

    def _throughput(self, step: int, counts: BatchCounts, window_sec: float) -> dict[str, float]:
        num_steps = step - self.last_logged_step
        gpu_sec = window_sec * self.world_size
        rate = counts.num_tokens / gpu_sec
        mean_document = counts.sum_squared_lengths / max(counts.num_tokens, 1)
        return {
            "step_time_sec": window_sec / max(num_steps, 1),
            "tokens_per_sec_per_gpu": rate,
            "trained_tokens_per_sec_per_gpu": counts.num_trained_tokens / gpu_sec,
            "audio_sec_per_sec": counts.audio_sec / window_sec,
            "pad_fraction": counts.num_pad_tokens / max(counts.num_tokens, 1),
            "data_wait_fraction": sum(self.data_loading_times) / window_sec,
            **self._mfu(rate, mean_document),
        }

    def _mfu(self, tokens_per_sec: float, mean_document: float) -> dict[str, float]:
        """MFU with attention over the whole pack and within documents; absent if the device's peak is unknown."""
        name = self.device_memory_monitor.device_name
        if self.has_quantization or not any(known in name for known in KNOWN_PEAKS):
            return {}
        flops, peak = self.facts.flops, self.gpu_peak_flops
        return {
            "mfu": tokens_per_sec * flops.at(self.facts.seq_len) / peak,
            "mfu_of_documents": tokens_per_sec * flops.at(mean_document) / peak,
        }

    def _memory(self) -> dict[str, float]:
        stats = self.device_memory_monitor.get_peak_stats()
        retries = {} if stats.num_alloc_retries < 0 else {"num_alloc_retries": stats.num_alloc_retries}
        return {"memory_peak_gib": stats.max_reserved_gib, **retries}

    def _start_window(self, step: int) -> None:
        self.last_logged_step = step
        self.counts = BatchCounts()
        self.packs_S = np.zeros_like(self.packs_S)
        self.ntokens_since_last_log = 0
        self.data_loading_times.clear()
        self.time_last_log = time.perf_counter()
        self.device_memory_monitor.reset_peak_stats()
