"""The plan as a page for people: aligned tables, and bars where parts of a whole are compared.

In: `RunPlan`. Out: lines of text. What is computed, what is predicted and what was never measured is said at the top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap

from titan_speech.distributed.pipeline import bubble
from titan_speech.estimate.answer import RankEstimate, RunEstimate, bytes_sent
from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS as ASSUMED
from titan_speech.estimate.devices import REFERENCE_SOURCE, REFERENCES
from titan_speech.preflight.compatibility import Composition, broken_rules, describe_composition, excluded_features
from titan_speech.utils.text_table import bar, gigabytes, hours, large, table_lines

Rows = list[Sequence[str]]
WIDTH = 118


def report_page(plan: RunEstimate) -> str:
    sections = [
        ("composition", _composition(plan)),
        ("run", _run(plan)),
        ("parameters and FLOPs", _counts(plan)),
        (f"what it reads{'' if plan.reading.stores_opened else ' (stores not opened)'}", _reading(plan)),
        ("checkpoints", _storage(plan)),
        (f"memory of one GPU{_which(plan.fullest)}, fullest in {plan.memory.place}", _memory(plan)),
        (f"sent by one GPU{_which(plan.fullest)} in a step", _traffic(plan)),
        ("predicted speed", _speed(plan)),
    ]
    if plan.dry_run is not None:
        sections.append(("dry run", plan.dry_run.lines()))
    lines = _head(plan)
    for title, body in sections:
        lines += ["", title, *(f"  {line}" for line in body)]
    return "\n".join(lines)


def _head(plan: RunEstimate) -> list[str]:
    question = plan.question
    without = f", without {' and '.join(plan.left_out)}" if plan.left_out else ""
    return [
        f"plan of {question.name} on {question.world_size:,} x {question.device.title}",
        "computed: parameters, FLOPs, steps, data, checkpoints; memory and communication, by a trace of the real",
        f"model, layout and loss on fake tensors{without}. predicted: time, money, what fits.",
        "Nothing was measured on a GPU.",
        f"backbone   {plan.shape_origin}",
        f"vocabulary {plan.vocabulary.origin}",
    ]


def _composition(plan: RunEstimate) -> list[str]:
    """What goes together here, and the rows of the table of docs/parallelism.md that concern this run."""
    run = Composition(plan.question.config, plan.shape)
    problems = [str(finding) for finding in broken_rules(run)]
    verdict = ["NOT SUPPORTED:", *problems] if problems else ["supported: breaks no rule of docs/parallelism.md"]
    refused = [f"could not be added: {name} ({why})" for name, why in excluded_features(run).items()]
    return [line for text in (describe_composition(run), *verdict, *refused) for line in wrap(text, WIDTH)]


def _run(plan: RunEstimate) -> list[str]:
    steps = plan.steps
    filled = f", {steps.filler_packs:,} fillers a step" if steps.filler_packs else ""
    return table_lines(
        [
            ("tokens a step", f"{steps.tokens_per_step:,}", f"{steps.packs_per_step:,} packs"),
            ("steps", f"{steps.num_steps:,}", f"{large(steps.total_tokens)} tokens"),
            (
                "passes a step",
                f"{steps.accumulation:,}",
                f"{steps.local_batch_packs:,} packs on each of {steps.dp_degree:,} data-parallel ranks{filled}",
            ),
        ],
        "<><",
    )


def _counts(plan: RunEstimate) -> list[str]:
    sizes, flops = plan.parameters, plan.flops
    tied = "tied with the embedding" if sizes.is_tied else f"{sizes.num_rows:,} rows"
    packed = flops.attention_packed
    rows: Rows = [
        ("embedding", large(sizes.embedding), f"{sizes.num_rows:,} rows"),
        ("head", large(sizes.head), tied),
        ("backbone", large(sizes.backbone), f"{plan.shape.num_layers} layers"),
        ("all parameters", large(sizes.total), f"of them in {sizes.num_new_rows:,} new rows {large(sizes.new_rows)}"),
        ("FLOPs a token", large(flops.full), "attention at full length: how MFU is counted"),
        ("  matrices", large(flops.matrices), "6 a parameter"),
        ("  attention, full", large(flops.attention_full), "seq_len tokens attended"),
        ("  attention, causal", large(flops.attention_causal), "one document a pack"),
        (
            "  attention, packed",
            "not known" if packed is None else large(packed),
            "documents at their mean length" if packed is not None else "needs the stores",
        ),
        ("recomputed", f"{plan.recomputed:.1%}", "of these again, by activation checkpointing"),
    ]
    return table_lines(rows, "<><")


def _reading(plan: RunEstimate) -> list[str]:
    reading = plan.reading
    rows: Rows = [("source", "language", "task", "share", "tokens", "epochs", "audio", "document")]
    for one in reading.streams:
        rows.append(
            (
                one.source,
                one.language or "?",
                one.task,
                f"{one.share:.2%}",
                large(one.num_tokens),
                "?" if one.epochs is None else f"{one.epochs:.3g}",
                "?" if one.audio_hours is None else hours(one.audio_hours),
                "?" if one.mean_document_tokens is None else f"{one.mean_document_tokens:,.0f} tokens",
            )
        )
    lines = table_lines(rows, "<<<>")
    if not reading.stores_opened:
        why = reading.reason.splitlines()[0]
        lines += [
            *wrap(f"Epochs, languages and audio of paired data are not known: {why}", WIDTH),
            "Audio of speech alone is its tokens at 50 a second, framing counted as speech.",
        ]
    return lines


def _storage(plan: RunEstimate) -> list[str]:
    one = plan.storage
    return table_lines(
        [
            ("full", gigabytes(one.full_bytes), f"{one.num_kept_full:,} kept of {one.num_saved:,} saved"),
            ("model only", gigabytes(one.model_only_bytes), f"{one.num_kept_model_only:,} kept"),
            ("in all", gigabytes(one.kept_bytes), f"at the end; {gigabytes(one.most_bytes)} while one more is written"),
        ],
        "<><",
    )


def _which(rank: RankEstimate) -> str:
    return f", pipeline rank {rank.stages.rank}" if rank.stages else ""


def _pipeline(plan: RunEstimate) -> list[str]:
    """The ranks that were traced: what they hold and how long they compute."""
    if plan.fullest.stages is None:
        return []
    rows: Rows = [("pipeline rank", "layers", "tensors", "PFLOP a pass", "")]
    for one in plan.ranks:
        stages = one.stages
        assert stages is not None
        ends = [name for name, is_here in (("embedding", stages.has_embedding), ("head", stages.has_head)) if is_here]
        layers = " + ".join(str(number) for number in stages.num_layers)
        memory, flops = gigabytes(one.memory.tensor_bytes), f"{one.pass_flops / 1e15:.3f}"
        rows.append((str(stages.rank), layers, memory, flops, ", ".join(ends)))
    waiting = bubble(plan.question.config) - 1
    return [
        *table_lines(rows, "<>>><"),
        f"ranks wait {waiting:.0%} of the time they compute for the pipeline to fill and drain",
    ]


def _memory(plan: RunEstimate) -> list[str]:
    memory, largest = plan.memory, max(plan.memory.by_component.values())
    rows: Rows = [
        (name, gigabytes(size), bar(size / largest))
        for name, size in sorted(memory.by_component.items(), key=lambda item: -item[1])
    ]
    phases = ", ".join(f"{name} {gigabytes(size)}" for name, size in memory.by_phase.items())
    lines = [
        *table_lines([*rows, ("tensors", gigabytes(memory.tensor_bytes), "")], "<><"),
        f"most in each phase: {phases}",
    ]
    lines += _pipeline(plan)
    if memory.fits is None:
        return lines
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    needed = f"{gigabytes(memory.needed_bytes)} of {gigabytes(memory.device_bytes)}"
    outside = f"{ASSUMED.fragmentation:.0%} fragmentation and {gigabytes(ASSUMED.outside_bytes)} for CUDA and NCCL"
    return [*lines, f"{verdict}: {needed}, {outside} included"]


def _traffic(plan: RunEstimate) -> list[str]:
    passes = plan.steps.accumulation
    rows: Rows = [("collective", "ranks", "times", "sent")]
    for one in plan.trace.traffic:
        repeated = passes if one.collective.phase == "pass" else 1
        sent = gigabytes(one.bytes_sent * repeated)
        rows.append((one.collective.kind, f"{len(one.collective.ranks):,}", f"{one.times * repeated:,}", sent))
    return [*table_lines(rows, "<>"), f"in all {gigabytes(bytes_sent(plan.trace, passes))}"]


def _speed(plan: RunEstimate) -> list[str]:
    speed = plan.speed
    if speed is None:
        return [f"none for a {plan.question.device.title}"]
    price = "" if speed.price is None else f", {speed.price:,.0f} for the whole run"
    rows: Rows = [
        (
            "step",
            f"{speed.step_sec:.3f} s",
            f"computing {speed.computing_sec:.3f} s, waiting for links {speed.exposed_sec:.3f} s",
        ),
        ("tokens/s/GPU", f"{speed.tokens_per_sec_per_gpu:,.0f}", f"MFU {speed.mfu:.1%}"),
        ("run", f"{speed.run_hours / 24:,.2f} days", f"{speed.gpu_hours:,.0f} GPU hours{price}"),
    ]
    return [*table_lines(rows, "<><"), *_assumed(), *_references()]


def _assumed() -> list[str]:
    return [
        f"assumed: {ASSUMED.efficiency:.1%} of the peak while computing (fitted to the pretraining rows below), "
        f"{ASSUMED.overlap:.0%} of FSDP and DDP",
        f"traffic hidden, links at {ASSUMED.bus_efficiency:.0%}; all of it in titan_speech/estimate/devices.py",
    ]


def _references() -> list[str]:
    rows: Iterable[Sequence[str]] = (
        (
            one.name,
            f"{one.num_parameters / 1e9:.3f} B",
            one.stage,
            f"{one.tokens_per_sec_per_gpu:,.0f}",
            f"{one.mfu:.0%}",
            one.strategy,
        )
        for one in REFERENCES
    )
    head = ("32 x H100", "parameters", "stage", "tokens/s/GPU", "MFU", "how")
    return [f"published ({REFERENCE_SOURCE}):", *table_lines([head, *rows], "<>>>><")]
