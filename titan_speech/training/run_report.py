"""What a run says of itself at its start and at its end, each as one block for people.

In: the configuration, the data plan and the start, all known before the model is built; at the end metrics.jsonl. Out:
lines of text. The summary reads the file rather than the process, so a run that was resumed five times reports the best
loss of all of it; a million steps logged every ten take two seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from titan_speech import __version__
from titan_speech.checkpoint.commit import checkpoint_path
from titan_speech.config.budget import Budget, budget_rows
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.order import CYCLE_SLOTS
from titan_speech.data.plan import DataPlan, PlannedStream
from titan_speech.data.unread_samples import count_unread, describe_counts
from titan_speech.model.backbones import BackboneShape
from titan_speech.preflight.compatibility import Composition, describe_composition
from titan_speech.training.console import CONSOLE_WIDTH
from titan_speech.training.jsonl_log import read_steps
from titan_speech.utils.progress import clock
from titan_speech.utils.text_table import amount, counted, gigabytes, large, table_lines

MARGIN = 2
STATES_PER_TRAINED = 3
"""Gradient and two moments of AdamW, each as large as the parameter."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class StartFacts:
    """What the start block shows, except for what the configuration says."""

    files: Sequence[Path]
    """Files of the configuration."""
    start: str
    is_resume: bool
    shape: BackboneShape
    world_size: int
    log: Path


def start_lines(config: SpeechConfig, plan: DataPlan, facts: StartFacts) -> list[str]:
    """The start of a run: what is trained, from where, on which data, in how much memory and time."""
    folder, num_rows = Path(config.job.dump_folder), plan.vocabulary.num_rows
    num_parameters = facts.shape.num_parameters(num_rows)
    saved = config.checkpoint
    rows = [
        ("run", f"{folder}, {'resumed' if facts.is_resume else 'new'}; {', '.join(map(str, facts.files[-1:]))}"),
        (
            "model",
            f"{config.model.family} {config.model.flavor}, {large(num_parameters)} parameters, {num_rows:,} rows",
        ),
        ("starts from", facts.start),
        ("features", describe_composition(Composition.of(config))),
        *budget_rows(config, facts.world_size),
        ("memory", _memory(config, facts.shape, num_rows, facts.world_size)),
        ("time", _time(config, folder / "metrics.jsonl", facts.is_resume)),
        ("checkpoints", str(folder / saved.folder) if saved.enable else "off (checkpoint.enable)"),
        ("log", str(facts.log)),
    ]
    title = f"titan_speech {__version__}" + (f": {config.job.description}" if config.job.description else "")
    return [title, "", *_wrapped(rows), "", *(f"{'':{MARGIN}}{line}" for line in data_lines(plan)), ""]


def _wrapped(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Name and value per row, in lines of at most 100 characters where a value can be cut between words."""
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        lines = wrap(value, CONSOLE_WIDTH - MARGIN - width, break_long_words=False, break_on_hyphens=False) or [""]
        for number, line in enumerate(lines):
            yield f"{'':{MARGIN}}{'' if number else name:<{width}}{line}".rstrip()


def _memory(config: SpeechConfig, shape: BackboneShape, num_rows: int, world_size: int) -> str:
    num_shards = max(1, world_size // config.parallelism.data_parallel_replicate_degree)
    num_all = shape.num_parameters(num_rows) + shape.num_adapter_parameters(config.lora)
    num_trained = shape.num_trained_parameters(num_rows, config.lora)
    per_rank = (num_all + STATES_PER_TRAINED * num_trained) * DTYPE_BYTES[config.training.dtype] / num_shards
    of_lora = f", which {large(num_trained)} trained ones have" if config.lora.is_on else ""
    return f"{gigabytes(per_rank)} per rank for parameters, gradients and AdamW{of_lora}; activations come on top"


def _time(config: SpeechConfig, metrics: Path, is_resume: bool) -> str:
    """The time left at the speed of an earlier start; a first start knows nothing yet."""
    records = read_steps(metrics) if is_resume else {}
    if not records:
        return "time left is shown after a few steps; before a run, titan-speech estimate predicts it"
    step, record = max(records.items())
    left = max(Budget.from_config(config).num_steps - step, 0)
    if not left:
        return "no steps are left"
    step_sec = record["step_time_sec"]
    return f"about {clock(left * step_sec)} for {counted(left, 'step')}, at {step_sec:.3g} s per step as before"


def data_lines(plan: DataPlan) -> list[str]:
    """A row per source, and what of it is not read; the log has the table of all languages."""
    by_source: dict[str, list[PlannedStream]] = {}
    for stream in plan.streams:
        by_source.setdefault(stream.source, []).append(stream)
    rows = [("data", "task", "languages", "documents", "tokens", "share", "epochs", "padding")]
    rows += [_source_row(streams, plan.total_slots) for streams in by_source.values()]
    lines = table_lines(rows, "<<<>")
    for name, streams in by_source.items():
        unread: Counter[str] = Counter()
        for stream in streams:
            unread += count_unread(stream.documents) if stream.counts.num_unusable else Counter()
        num_dropped = sum(stream.counts.num_dropped for stream in streams)
        unread += Counter({f"longer than {plan.seq_len:,} tokens": num_dropped})
        if unread:
            text = f"{name}: samples not read as {streams[0].task}: {describe_counts(unread)}"
            lines += wrap(text, CONSOLE_WIDTH - MARGIN, subsequent_indent="    ", break_long_words=False)
    return [*lines, *plan.held_out]


def _source_row(streams: Sequence[PlannedStream], total_slots: int) -> tuple[str, ...]:
    languages = [stream.language for stream in streams]
    epochs = [total_slots * one.quota / CYCLE_SLOTS / one.counts.num_packs for one in streams]
    low, high = f"{min(epochs):.2g}", f"{max(epochs):.2g}"
    num_packs = sum(stream.quota for stream in streams)
    fill = sum(stream.mean_fill * stream.quota for stream in streams) / max(num_packs, 1)
    return (
        streams[0].source,
        streams[0].task,
        ", ".join(languages) if len(languages) <= 3 else str(len(languages)),
        amount(sum(stream.counts.num_documents for stream in streams)),
        amount(sum(stream.counts.num_tokens for stream in streams)),
        f"{sum(stream.share for stream in streams):.1%}",
        low if low == high else f"{low} to {high}",
        f"{1 - fill:.1%}",
    )


def summary_lines(
    config: SpeechConfig,
    *,
    step: int,
    is_complete: bool,
    first_step: int,
    elapsed_sec: float,
    memory_gib: float,
    log: Path,
) -> list[str]:
    """The end of a run: how far it came, its losses, where everything is, and the next commands.

    Args:
        step: of the last step that was trained.
        is_complete: whether that is the last one of the run.
        first_step: steps that were done before this start of the run.
        elapsed_sec: time of this start.
        memory_gib: peak on this rank; 0 if no step was logged.
        log: file of this rank.
    """
    folder, budget = Path(config.job.dump_folder), Budget.from_config(config)
    metrics = folder / "metrics.jsonl"
    records = {at: record for at, record in read_steps(metrics).items() if at <= step}
    checkpoint = checkpoint_path(folder / config.checkpoint.folder, step)
    here = f", {step - first_step:,} of them now" if first_step else ""
    rows = [
        ("steps", f"{step:,} of {budget.num_steps:,}{here}, {amount(step * budget.tokens_per_step)} tokens"),
        ("time", clock(elapsed_sec) + (f", peak memory {memory_gib:.2f} GiB on rank 0" if memory_gib else "")),
        *_loss_rows(records),
        *([("checkpoint", str(checkpoint))] if checkpoint.is_dir() else []),
        ("metrics", str(metrics)),
        ("log", str(log)),
    ]
    lines = ["finished" if is_complete else "stopped", *_wrapped(rows), ""]
    return lines + (
        _next_lines(folder, checkpoint, is_adapter=config.lora.is_on) if is_complete and checkpoint.is_dir() else []
    )


def _loss_rows(records: dict[int, dict[str, float]]) -> Iterator[tuple[str, str]]:
    """The last and the best loss that were logged, and the steps that were skipped."""
    finite = {step: record["loss"] for step, record in records.items() if record.get("loss") is not None}
    finite = {step: loss for step, loss in finite.items() if math.isfinite(loss)}
    if finite:
        last, best = max(finite), min(finite, key=lambda step: (finite[step], step))
        yield "loss", f"{finite[last]:.4f} at step {last:,}, best {finite[best]:.4f} at step {best:,}"
    skipped = records[max(records)].get("skipped_steps", 0) if records else 0
    if skipped:
        yield "skipped", f"{counted(int(skipped), 'step')} without an update: see the log"


def _next_lines(folder: Path, checkpoint: Path, *, is_adapter: bool) -> list[str]:
    whole = folder.with_name(f"{folder.name}-merged") if is_adapter else folder
    rows = [
        ("hear it", f'titan-speech sample --run {folder} --text "Hello." --output {folder / "sample.wav"}'),
        ("export", f"titan-speech model export --checkpoint {checkpoint} --output {folder / 'hf' / checkpoint.name}"),
        *([("merge", f"titan-speech model merge --checkpoint {folder} --output {whole}")] if is_adapter else []),
        ("next stage", f"titan-speech train NEXT.toml --stage.from {whole}"),
    ]
    return ["next", *(line for name, command in rows for line in command_lines(name, command)), ""]


def command_lines(name: str, command: str) -> Iterator[str]:
    """A command that can be copied, in lines of at most 100 characters that end in a backslash where they are cut.

    A cut is before an option, so that it keeps its value.
    """
    indent = " " * (MARGIN + 12)
    line = f"{'':{MARGIN}}{name:<12}{command.split(' --')[0]}"
    for option in command.split(" --")[1:]:
        if len(line) + len(f" --{option} \\") > CONSOLE_WIDTH:
            yield f"{line} \\"
            line = f"{indent}  --{option}"
        else:
            line += f" --{option}"
    yield line
