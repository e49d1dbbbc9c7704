"""An estimate as a page for people: tables, and bars where parts of a whole are compared.

In: `RunEstimate`. Out: lines of text. The head says what is computed, what is predicted and what was never measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap

from titan_speech.distributed.pipeline import bubble
from titan_speech.estimate.devices import DEFAULT_ASSUMPTIONS as ASSUMED
from titan_speech.estimate.devices import PUBLISHED_RUNS, REFERENCE_SOURCE
from titan_speech.estimate.loss_head import LossHead
from titan_speech.estimate.result import DTYPE_BYTES, RankEstimate, RunEstimate
from titan_speech.estimate.speed import bytes_sent
from titan_speech.estimate.speed_by_parts import SpeedByParts
from titan_speech.preflight.compatibility import Composition, broken_rules, describe_composition, excluded_features
from titan_speech.utils.text_table import bar, counted, gigabytes, hours, large, table_lines

Rows = list[Sequence[str]]
WIDTH = 98


def report_page(estimate: RunEstimate) -> str:
    sections = [
        ("composition", _composition(estimate)),
        ("run", _run(estimate)),
        ("parameters and FLOPs", _counts(estimate)),
        (f"data{'' if estimate.data.stores_opened else ' (stores not opened)'}", _data(estimate)),
        ("checkpoints", _storage(estimate)),
        (f"memory of one GPU{_rank_name(estimate.fullest)}, highest in {estimate.memory.place}", _memory(estimate)),
        (f"sent by one GPU{_rank_name(estimate.fullest)} per step", _traffic(estimate)),
        ("predicted speed", _speed(estimate)),
    ]
    if estimate.by_parts is not None:
        sections.append(("predicted speed by parts", _by_parts(estimate.by_parts, estimate.data.stores_opened)))
    if estimate.dry_run is not None:
        sections.append(("dry run", estimate.dry_run.lines()))
    lines = _head(estimate)
    for title, body in sections:
        lines += ["", title, *(f"  {line}" for line in body)]
    return "\n".join(lines)


def _head(estimate: RunEstimate) -> list[str]:
    request = estimate.request
    without = f", without {' and '.join(estimate.left_out)}" if estimate.left_out else ""
    return [
        f"estimate of {request.name} on {request.world_size:,} x {request.device.title}",
        *wrap(
            "computed: parameters, FLOPs, steps, data, checkpoints; memory and communication, by a trace of the real "
            f"model, layout and loss on fake tensors{without}. predicted: time, money, what fits.",
            WIDTH,
        ),
        "Nothing was measured on a GPU.",
        f"backbone   {estimate.shape_origin}",
        f"vocabulary {estimate.vocabulary.origin}",
    ]


def _composition(estimate: RunEstimate) -> list[str]:
    """Whether the features of the run can be combined, and what could not be added to them."""
    run = Composition(estimate.request.config, estimate.shape)
    problems = [str(finding) for finding in broken_rules(run)]
    verdict = ["NOT SUPPORTED:", *problems] if problems else ["supported: breaks no rule of what can be combined"]
    refused = [f"could not be added: {name} ({why})" for name, why in excluded_features(run).items()]
    return [line for text in (describe_composition(run), *verdict, *refused) for line in wrap(text, WIDTH)]


def _run(estimate: RunEstimate) -> list[str]:
    steps = estimate.steps
    num_done = estimate.request.config.stage.num_done
    branched = f", after the {num_done:,} that the branch continues" if num_done else ""
    filled = f", {counted(steps.filler_packs, 'padding pack')} per step" if steps.filler_packs else ""
    return table_lines(
        [
            ("tokens per step", f"{steps.tokens_per_step:,}", counted(steps.packs_per_step, "pack")),
            ("steps", f"{steps.num_steps:,}", f"{large(steps.total_tokens)} tokens{branched}"),
            (
                "accumulation steps",
                f"{steps.accumulation:,}",
                f"{counted(steps.local_batch_packs, 'pack')} on each of "
                f"{counted(steps.dp_degree, 'data-parallel rank')}{filled}",
            ),
        ],
        "<><",
    )


def _counts(estimate: RunEstimate) -> list[str]:
    sizes, attention = estimate.parameters, estimate.attention_flops
    tied = "tied with the embedding" if sizes.is_tied else f"{sizes.num_rows:,} rows"
    notes = {
        "full": "seq_len tokens attended",
        "causal": "one document per pack",
        "packed": "needs the stores" if attention["packed"] is None else "documents at their mean length",
    }
    rows: Rows = [
        ("embedding", large(sizes.embedding), f"{sizes.num_rows:,} rows"),
        ("head", large(sizes.head), tied),
        ("backbone", large(sizes.backbone), counted(estimate.shape.num_layers, "layer")),
        ("all parameters", large(sizes.total), f"of them in {sizes.num_new_rows:,} new rows {large(sizes.new_rows)}"),
        *_adapters(estimate),
        ("FLOPs per token", large(estimate.flops_per_token), "attention at full length: how MFU is counted"),
        (
            "  matrices",
            large(estimate.flops.matrices),
            f"6 per parameter{', 4 per frozen one' if sizes.adapters else ''}",
        ),
        *(
            (f"  attention, {name}", "not known" if value is None else large(value), notes[name])
            for name, value in attention.items()
        ),
        ("recomputed", f"{estimate.recomputed:.1%}", "of these again, by activation checkpointing"),
    ]
    return table_lines(rows, "<><")


def _adapters(estimate: RunEstimate) -> Rows:
    """What of the model LoRA trains."""
    sizes = estimate.parameters
    if not sizes.adapters:
        return []
    share = f"{sizes.trained / (sizes.total + sizes.adapters):.2%} of all; the others are frozen"
    return [
        ("adapters", large(sizes.adapters), f"rank {estimate.request.config.lora.rank}"),
        ("trained", large(sizes.trained), share),
    ]


def _data(estimate: RunEstimate) -> list[str]:
    data = estimate.data
    rows: Rows = [("source", "language", "task", "share", "tokens", "padding", "epochs", "audio", "document")]
    for one in data.streams:
        rows.append(
            (
                one.source,
                one.language or "?",
                one.task,
                f"{one.share:.2%}",
                large(round(one.num_tokens * (1 - (one.padding or 0)))),
                "?" if one.padding is None else large(round(one.num_tokens * one.padding)),
                "?" if one.epochs is None else f"{one.epochs:.3g}",
                "?" if one.audio_hours is None else hours(one.audio_hours),
                "?" if one.mean_document_tokens is None else f"{one.mean_document_tokens:,.0f} tokens",
            )
        )
    lines = [
        *table_lines(rows, "<<<>"),
        *wrap(
            "Shares are of tokens without padding. Padding fills the end of packs whose samples stay whole, and counts "
            "towards the token budget. An epoch is one pass over what the stores have.",
            WIDTH,
        ),
    ]
    if not data.stores_opened:
        why = data.reason.splitlines()[0]
        lines += [
            *wrap(f"Epochs, languages and audio of paired data are not known: {why}", WIDTH),
            "Audio of unpaired speech is its tokens at 50 per second, framing tokens counted as speech.",
        ]
    return lines


def _storage(estimate: RunEstimate) -> list[str]:
    one, sizes = estimate.storage, estimate.parameters
    rows: Rows = [
        ("full", gigabytes(one.full_bytes), f"{one.num_kept_full:,} kept of {one.num_saved:,} saved"),
        ("model only", gigabytes(one.model_only_bytes), f"{one.num_kept_model_only:,} kept"),
        ("total", gigabytes(one.kept_bytes), f"at the end; {gigabytes(one.most_bytes)} while one more is written"),
    ]
    if sizes.adapters:
        base = DTYPE_BYTES[estimate.request.config.training.dtype] * sizes.total
        more = f"once for all adapters of it; each further one adds {gigabytes(one.model_only_bytes)}, model only"
        rows.append(("base", gigabytes(base), more))
    return table_lines(rows, "<><")


def _rank_name(rank: RankEstimate) -> str:
    return f", pipeline rank {rank.stages.rank}" if rank.stages else ""


def _pipeline(estimate: RunEstimate) -> list[str]:
    """The traced ranks of a pipeline: what they hold and how much they compute."""
    if estimate.fullest.stages is None:
        return []
    rows: Rows = [("pipeline rank", "layers", "tensors", "PFLOP per pass", "")]
    for one in estimate.ranks:
        stages = one.stages
        assert stages is not None
        ends = [name for name, is_here in (("embedding", stages.has_embedding), ("head", stages.has_head)) if is_here]
        layers = " + ".join(str(number) for number in stages.num_layers)
        memory, flops = gigabytes(one.memory.tensor_bytes), f"{one.pass_flops / 1e15:.3f}"
        rows.append((str(stages.rank), layers, memory, flops, ", ".join(ends)))
    waiting = bubble(estimate.request.config) - 1
    return [
        *table_lines(rows, "<>>><"),
        f"ranks wait {waiting:.0%} of the time they compute for the pipeline to fill and drain",
    ]


def _memory(estimate: RunEstimate) -> list[str]:
    memory, largest = estimate.memory, max(estimate.memory.by_component.values())
    rows: Rows = [
        (name, gigabytes(size), bar(size / largest))
        for name, size in sorted(memory.by_component.items(), key=lambda item: -item[1])
    ]
    phases = ", ".join(f"{name} {gigabytes(size)}" for name, size in memory.by_phase.items())
    lines = [
        *table_lines([*rows, ("tensors", gigabytes(memory.tensor_bytes), "")], "<><"),
        f"peak of each phase: {phases}",
    ]
    lines += _pipeline(estimate)
    if memory.fits is None:
        return lines
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    needed = f"{gigabytes(memory.needed_bytes)} of {gigabytes(memory.device_bytes)}"
    outside = f"{ASSUMED.fragmentation:.0%} fragmentation and {gigabytes(ASSUMED.outside_bytes)} for CUDA and NCCL"
    return [*lines, f"{verdict}: {needed}, {outside} included"]


def _traffic(estimate: RunEstimate) -> list[str]:
    passes = estimate.steps.accumulation
    rows: Rows = [("collective", "ranks", "times", "sent")]
    for one in estimate.trace.traffic:
        repeated = passes if one.collective.phase == "pass" else 1
        sent = gigabytes(one.bytes_sent * repeated)
        rows.append((one.collective.kind, f"{len(one.collective.ranks):,}", f"{one.times * repeated:,}", sent))
    return [*table_lines(rows, "<>"), f"total {gigabytes(bytes_sent(estimate.trace, passes))}"]


def _speed(estimate: RunEstimate) -> list[str]:
    speed = estimate.speed
    if speed is None:
        return [f"no time is predicted for a {estimate.request.device.title}"]
    price = "" if speed.price is None else f", {short_number(speed.price)} for the whole run"
    days = f"{speed.run_hours / 24:,.2f} days"
    rows: Rows = [
        (
            "step",
            f"{speed.step_sec:.3f} s",
            f"computing {speed.computing_sec:.3f} s, waiting for links {speed.exposed_sec:.3f} s",
        ),
        ("tokens/s/GPU", f"{speed.tokens_per_sec_per_gpu:,.0f}", f"MFU {speed.mfu:.1%}"),
        (
            "run",
            days if speed.run_hours >= 24 else f"{short_number(speed.run_hours)} hours",
            f"{short_number(speed.gpu_hours)} GPU hours{price}",
        ),
    ]
    return [*table_lines([*rows, *_reference_pass(estimate)], "<><"), *_assumed(), *_references()]


def short_number(value: float) -> str:
    """Whole from 100 on, three digits below: an adapter takes minutes."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _reference_pass(estimate: RunEstimate) -> Rows:
    """Of preference training; it is not part of the run's time."""
    preference, found = estimate.request.config.preference, estimate.reference
    if found is None:
        return [("reference", "none", "preference.loss = simpo")] if preference.loss == "simpo" else []
    tokens = "" if found.num_tokens is None else f", {large(found.num_tokens)} tokens,"
    note = f"a forward pass over every pair{tokens} before step 1; no second model in memory"
    return [("reference", "?" if found.hours is None else f"{60 * found.hours:,.1f} minutes", note)]


def _by_parts(speed: SpeedByParts, knows_documents: bool) -> list[str]:
    """Parts of a pass, what it comes to, and what each change would gain."""
    total = sum(speed.parts_sec.values())
    rows: Rows = [
        (name, f"{1e3 * seconds:,.1f} ms", f"{seconds / total:.0%}", bar(seconds / max(speed.parts_sec.values())))
        for name, seconds in sorted(speed.parts_sec.items(), key=lambda item: -item[1])
    ]
    lengths = "documents' lengths" if knows_documents else "one document per pack"
    gains = [f"{name} {gain - 1:+.0%}" for name, gain in speed.levers.items()]
    return [
        *table_lines([*rows, ("a pass", f"{1e3 * total:,.1f} ms", "", "")], "<>><"),
        f"{speed.tokens_per_sec_per_gpu:,.0f} tokens/s/GPU, MFU {speed.mfu:.1%}; {speed.honest_mfu:.1%} of "
        f"{speed.chip_bf16_flops / 1e12:,.0f} TFLOP/s with attention at {lengths}",
        f"loss in {_head_of(speed.loss_head)}; by the rule (titan_speech/estimate/loss_head.py) "
        f"{_head_of(speed.chosen_loss_head)}",
        *wrap(f"a change alone would give: {', '.join(gains)}", WIDTH),
        *wrap(
            f"efficiencies {speed.efficiencies.origin} (titan_speech/estimate/efficiencies.py); memory is not looked "
            "at here: `--against` compares it",
            WIDTH,
        ),
    ]


def _head_of(head: LossHead) -> str:
    return f"{head.name}, {gigabytes(head.logits_bytes)} of logits and gradients"


def _assumed() -> list[str]:
    return [
        f"assumed: {ASSUMED.efficiency:.1%} of the peak while computing (fitted to the pretraining rows below), "
        f"{ASSUMED.overlap:.0%} of FSDP and DDP",
        f"traffic overlapped, links at {ASSUMED.bus_efficiency:.0%}; all of it in titan_speech/estimate/devices.py",
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
        for one in PUBLISHED_RUNS
    )
    head = ("32 x H100", "parameters", "stage", "tokens/s/GPU", "MFU", "how")
    return [f"published ({REFERENCE_SOURCE}):", *table_lines([head, *rows], "<>>>><")]
