"""Every metric of a run: its name, unit and meaning, and what Prometheus calls it. These names are stable.

A name that is removed or gets another meaning is announced in CHANGELOG one version before. `{by}` is kind, task,
source or language. The reference page of metrics is generated from this list, and a test holds what a run emits against
it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

PROMETHEUS_PREFIX = "titan_speech_"


@dataclass(frozen=True)
class MetricName:
    """One metric, or a family of them."""

    pattern: str
    """`loss`, or with placeholders `loss/{by}/{group}`; the last placeholder takes the rest of the name."""
    unit: str
    what: str
    exported: str
    """Name in Prometheus, after `titan_speech_`; placeholders become labels."""
    is_counter: bool = False
    """In Prometheus a counter: the value only rises over the whole run."""

    @cached_property
    def placeholders(self) -> tuple[str, ...]:
        """Its labels in Prometheus, besides `run`."""
        return tuple(re.findall(r"\{(\w+)\}", self.pattern))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = re.split(r"(\{\w+\})", self.pattern)
        last = max((i for i, part in enumerate(parts) if part.startswith("{")), default=-1)
        texts = [
            f"(?P<{part[1:-1]}>{'.+' if i == last else '[^/]+'})" if part.startswith("{") else re.escape(part)
            for i, part in enumerate(parts)
        ]
        return re.compile("".join(texts))

    def labels(self, name: str) -> dict[str, str] | None:
        """What the placeholders are in a name; None if it is of another family."""
        match = self._regex.fullmatch(name)
        return None if match is None else match.groupdict()


@dataclass(frozen=True)
class MetricSection:
    """Metrics that are logged together."""

    title: str
    when: str
    """When they are logged, as a sentence."""
    metrics: tuple[MetricName, ...]


SECTIONS = (
    MetricSection(
        "Log steps",
        "Every `metrics.log_every_steps` steps, and at the last one.",
        (
            MetricName("loss", "nats per token", "mean over the trained tokens since the last line", "loss"),
            MetricName("loss/{by}/{group}", "nats per token", "of a group; kinds: code, text, special", "group_loss"),
            MetricName("trained_tokens", "tokens", "what `loss` is the mean of", "trained_tokens"),
            MetricName("trained_tokens/{by}/{group}", "tokens", "the same of a group", "group_trained_tokens"),
            MetricName("read_tokens/{by}/{group}", "tokens", "since the last line, padding included", "read_tokens"),
            MetricName("loss_of_step", "nats per token", "of the last step alone", "loss_of_step"),
            MetricName("grad_norm", "", "norm of the gradients before clipping", "grad_norm"),
            MetricName("lr", "", "learning rate of old vocabulary rows and the body", "lr"),
            MetricName("tokens_seen", "tokens", "position in the data, skipped steps included", "tokens_seen", True),
            MetricName("step_time_sec", "s", "mean since the last line", "step_time_seconds"),
            MetricName("tokens_per_sec_per_gpu", "tokens/s", "without padding packs", "tokens_per_second_per_gpu"),
            MetricName(
                "trained_tokens_per_sec_per_gpu", "tokens/s", "with a label", "trained_tokens_per_second_per_gpu"
            ),
            MetricName("audio_sec_per_sec", "s/s", "speech per second, all ranks", "audio_seconds_per_second"),
            MetricName("pad_fraction", "share", "padding in packs", "pad_fraction"),
            MetricName("data_wait_fraction", "share", "time in which steps wait for batches", "data_wait_fraction"),
            MetricName("memory_peak_gib", "GiB", "reserved by rank 0 since the last line", "memory_peak_gib"),
            MetricName("skipped_steps", "steps", "their loss or gradients were not finite", "skipped_steps", True),
            MetricName("loss_spikes", "count", "losses far above the median", "loss_spikes", True),
        ),
    ),
    MetricSection(
        "GPUs",
        "At log steps: `mfu` on devices whose peak is known, retries on CUDA.",
        (
            MetricName("mfu", "share", "model FLOP/s of the device's peak, attention over the whole pack", "mfu"),
            MetricName("mfu_of_documents", "share", "the same, attention inside documents", "mfu_of_documents"),
            MetricName("num_alloc_retries", "count", "memory is nearly full if it rises", "num_alloc_retries", True),
        ),
    ),
    MetricSection(
        "Validation",
        "For each set of `data.held_out`: before the first step, every `validation.every_steps`, and after the last.",
        (
            MetricName("validation/{set}/loss", "nats per token", "of a held-out set", "validation_loss"),
            MetricName("validation/{set}/perplexity", "", "exp of it", "validation_perplexity"),
            MetricName("validation/{set}/tokens", "tokens", "what it is the mean of", "validation_tokens"),
            MetricName("validation/{set}/sec", "s", "its time, no part of `step_time_sec`", "validation_seconds"),
            MetricName("validation/{set}/loss/{by}/{group}", "nats per token", "of a group", "validation_group_loss"),
            MetricName("validation/{set}/perplexity/{by}/{group}", "", "of a group", "validation_group_perplexity"),
            MetricName("validation/{set}/tokens/{by}/{group}", "tokens", "of a group", "validation_group_tokens"),
        ),
    ),
    MetricSection(
        "Preference training",
        "At log steps and validations of preference runs. Measures are `loss`, `accuracy`, `margin`, `chosen_reward`, "
        "`rejected_reward` and `pairs`, and in nats per token `chosen_logp`, `rejected_logp` and `chosen_drift` "
        "(above the reference's).",
        (
            MetricName("preference/{measure}/{by}/{group}", "per pair", "of a group", "group_preference"),
            MetricName("preference/{measure}", "per pair", "mean since the last line", "preference"),
            MetricName(
                "validation/{set}/preference/{measure}/{by}/{group}",
                "per pair",
                "of both",
                "validation_group_preference",
            ),
            MetricName(
                "validation/{set}/preference/{measure}", "per pair", "of a held-out set", "validation_preference"
            ),
        ),
    ),
    MetricSection(
        "Generation checks",
        "Every `generation_check.every_steps`; the measures are listed under generation checks of the evaluation page.",
        (
            MetricName("generation/sec", "s", "its time, no part of `step_time_sec`", "generation_seconds"),
            MetricName("generation/language/{language}/{measure}", "", "in a language", "generation_by_language"),
            MetricName("generation/{measure}", "", "mean over the prompts", "generation"),
        ),
    ),
    MetricSection(
        "Norms of tensors",
        "At the steps of `metrics.tensor_norms_every_steps` and `tensor_norms_at_steps`. Groups are `layers/0` and so "
        "on, `norm`, `embedding/old_rows`, `embedding/new_rows`, `head/old_rows` and `head/new_rows`.",
        (
            MetricName("tensors/weight/{group}", "", "norm of the weights after the update", "weight_norm"),
            MetricName("tensors/gradient/{group}", "", "norm of the gradients before clipping", "gradient_norm"),
            MetricName("tensors/update/{group}", "", "norm of what the step changed", "update_norm"),
            MetricName("tensors/activation_rms/{group}", "", "root mean square of a layer's output", "activation_rms"),
        ),
    ),
    MetricSection(
        "Uploads of checkpoints",
        "At log steps, with `[upload]`.",
        (
            MetricName("upload/num_waiting", "files", "waiting for their upload", "upload_waiting_files"),
            MetricName("upload/waiting_bytes", "bytes", "the same in bytes", "upload_waiting_bytes"),
            MetricName("upload/oldest_age_sec", "s", "age of the oldest of them", "upload_oldest_age_seconds"),
            MetricName("upload/num_failures", "count", "uploads that failed", "upload_failures", True),
        ),
    ),
)

METRIC_NAMES = tuple(metric for section in SECTIONS for metric in section.metrics)


@dataclass(frozen=True)
class EndpointMetric:
    """A metric that only the endpoint of a node has: of the run, or of each rank of the node."""

    exported: str
    """Name in Prometheus, after `titan_speech_`."""
    labels: tuple[str, ...]
    """Besides `run`."""
    what: str
    is_counter: bool = False


ENDPOINT_METRICS = (
    EndpointMetric("step", ("rank",), "steps done"),
    EndpointMetric("seconds_total", ("rank", "class"), "seconds of the process by class of the ledger of time", True),
    EndpointMetric("ledger_age_seconds", ("rank",), "since the last sign of life of the rank"),
    EndpointMetric("world_size", ("rank",), "processes of the run"),
    EndpointMetric("flagged", (), "checks that left their bounds in this start of the run", True),
)


def exported_labels() -> dict[str, tuple[str, ...]]:
    """Every metric of the endpoint by its name in Prometheus, with its labels."""
    named = [(one.exported, one.placeholders) for one in METRIC_NAMES] + [
        (e.exported, e.labels) for e in ENDPOINT_METRICS
    ]
    return {PROMETHEUS_PREFIX + name: ("run", *labels) for name, labels in named}


@cache
def find(name: str) -> tuple[MetricName, tuple[tuple[str, str], ...]] | None:
    """The family of a metric, and its labels; None for a name that is not in the list."""
    for metric in METRIC_NAMES:
        labels = metric.labels(name)
        if labels is not None:
            return metric, tuple(labels.items())
    return None
