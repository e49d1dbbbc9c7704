"""Curves of training: loss by group, the optimizer, throughput, preference pairs.

In: metrics.jsonl of runs. Out: a section each, or None where a run has no such metric: losses in all and by kind of
token, task, source and language; learning rate, gradient norm and skipped steps; tokens per second, MFU, what of a step
waits for data, padding and memory; loss, accuracy, margin and drift of preference pairs, of training and held out.
"""

from __future__ import annotations

from collections.abc import Sequence

from titan_speech.report.blocks import Block, Charts, Section
from titan_speech.report.chart import Chart
from titan_speech.report.run import Run
from titan_speech.report.sections.lines import chart, names_of, restarts, small_charts

LOSS_UNIT = "nats per token"
GROUPS = {"kind": "By kind of token", "task": "By task", "source": "By source", "language": "By language"}
MAX_TOGETHER = 4
"""Groups that share one chart; more have a small chart each."""


def losses(runs: Sequence[Run]) -> Section | None:
    """The loss of training."""
    if not names_of(runs, "loss"):
        return None
    total = chart(runs, "Training loss", LOSS_UNIT, {"loss": "loss"}, size="wide", marks=restarts(runs))
    blocks: list[Block] = [Charts([total])]
    together = []
    for group, title in GROUPS.items():
        names = names_of(runs, f"loss/{group}/")
        if len(runs) == 1 and 1 < len(names) <= MAX_TOGETHER:
            together.append(chart(runs, title, LOSS_UNIT, {f"loss/{group}/{name}": name for name in names}))
        elif len(names) > 1:
            blocks.append(Charts(small_charts(runs, f"loss/{group}/", LOSS_UNIT), f"{title}, {LOSS_UNIT}"))
    if together:
        blocks.insert(1, Charts(together))
    lead = (
        "Cross-entropy of trained tokens, averaged over the steps between two records. "
        "A shaded area reaches from the lowest to the highest record of a point."
    )
    return Section("losses", "Training loss", lead, blocks)


def optimization(runs: Sequence[Run]) -> Section | None:
    """What the optimizer did."""
    if not names_of(runs, "grad_norm") and not names_of(runs, "lr"):
        return None
    charts = [
        chart(runs, "Learning rate", "", {"lr": "learning rate"}, from_zero=True),
        chart(runs, "Gradient norm", "", {"grad_norm": "gradient norm"}, is_log=True, marks=restarts(runs)),
    ]
    charts += [
        chart(runs, title, unit, {name: title.lower()}, from_zero=True)
        for name, title, unit in (
            ("skipped_steps", "Skipped steps", "steps since the start"),
            ("loss_spikes", "Loss spikes", "since the start"),
        )
        if any(run.log.column(name).steps and run.log.column(name).last for run in runs)
    ]
    lead = "The norm is that of all gradients before clipping."
    return Section("optimization", "Optimizer", lead, [Charts(charts)])


def throughput(runs: Sequence[Run]) -> Section | None:
    """How fast the run was."""
    if not names_of(runs, "tokens_per_sec_per_gpu"):
        return None
    rates = {"tokens_per_sec_per_gpu": "all tokens", "trained_tokens_per_sec_per_gpu": "trained tokens"}
    mfu = {"mfu": "attention over the whole pack", "mfu_of_documents": "attention within documents"}
    charts: list[Chart] = [
        chart(runs, "Throughput", "tokens per second and GPU", rates, from_zero=True, marks=restarts(runs)),
        chart(runs, "MFU", "of the peak of the device", mfu, is_share=True),
        chart(runs, "Time of a step", "seconds", {"step_time_sec": "step"}, from_zero=True),
        chart(runs, "Audio", "seconds per second, all GPUs", {"audio_sec_per_sec": "audio"}, from_zero=True),
        chart(
            runs,
            "Waiting for data and padding",
            "share of time, share of tokens",
            {"data_wait_fraction": "waiting for data", "pad_fraction": "padding"},
            is_share=True,
        ),
        chart(runs, "Memory, highest of rank 0", "GiB", {"memory_peak_gib": "memory"}, from_zero=True),
    ]
    known = any(run.log.column("mfu").steps for run in runs)
    lead = "Steps only: validation, generation checks and saves between steps have their place in the ledger."
    lead += "" if known else " There is no MFU: the peak of this device is not known."
    return Section("throughput", "Throughput", lead, [Charts(charts)])


PREFERENCE_PREFIX = "preference/"
PREFERENCE_CHARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Loss of pairs", "", ("loss",)),
    ("Accuracy", "of pairs", ("accuracy",)),
    ("Margin", "reward", ("margin",)),
    ("Rewards", "", ("chosen_reward", "rejected_reward")),
    ("Log-probability", "nats per token", ("chosen_logp", "rejected_logp")),
    ("Drift of chosen answers", "nats per token", ("chosen_drift",)),
)
"""Title, unit and metrics of each chart."""


def preference(runs: Sequence[Run]) -> Section | None:
    """What became of the pairs."""
    if not any("/" not in name for name in names_of(runs, PREFERENCE_PREFIX)):
        return None
    blocks: list[Block] = [Charts(_preference_charts(runs, PREFERENCE_PREFIX))]
    sets = sorted({name.split("/")[0] for name in names_of(runs, "validation/") if f"/{PREFERENCE_PREFIX}" in name})
    blocks += [
        Charts(_preference_charts(runs, f"validation/{one}/{PREFERENCE_PREFIX}"), f"Held-out pairs of {one}")
        for one in sets
    ]
    lead = (
        "A margin that grows while the log-probability of the chosen answers falls is the usual failure: lower the "
        "rate, raise preference.beta or set preference.sft_weight."
    )
    return Section("preference", "Preference training", lead, blocks)


def _preference_charts(runs: Sequence[Run], prefix: str) -> list[Chart]:
    return [
        chart(runs, title, unit, {prefix + name: name for name in names}, size="small", is_share=title == "Accuracy")
        for title, unit, names in PREFERENCE_CHARTS
    ]
