"""Steps of training: tokens per second, trained tokens per second, MFU, memory, and step-time breakdown.

In: options. Out: on any machine the debug model against plain TorchTitan, in turns, and the overhead of a step; on GPUs
the 1B and 8B of the published runs (`GpuCase`) besides, float8 tensorwise as published. In a dry run the GPU cases take
two steps of two layers on a fake process group, at their widths and world size, and nothing is measured. The step-time
breakdown is read from the trace of a separate run, since tracing slows a step down.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.bundled import write_texts
from benchmarks.fake_data import write_stand_ins
from benchmarks.machine import device_key, this_machine
from benchmarks.record import Case, Figure, Goal, Ratio
from benchmarks.references import aims, flops_per_token, mfu
from benchmarks.suite import (
    NO_GPU,
    Found,
    Options,
    case_of,
    config_words,
    cpu_sec,
    ratio_of,
    rounds_of,
    shown,
    step_sec,
    tell,
)
from benchmarks.trace_split import split
from benchmarks.turns import Rounds, Turn, Variant, take_turns
from titan_speech.estimate.devices import DEVICES
from titan_speech.estimate.dry_run import dry_run
from titan_speech.estimate.offline import run_vocabulary
from titan_speech.preflight.config_checks import load_config

FLOAT8 = {"float8.recipe": "tensorwise"}


@dataclass(frozen=True)
class GpuCase:
    """One configuration that is measured on GPUs only."""

    name: str
    what: str
    config: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    is_replicated: bool = False
    """Whole weights on each GPU; else sharded over all."""

    has_baseline: bool = False
    """Plain TorchTitan is measured at the same size, too."""

    def words(self, world_size: int) -> dict[str, str]:
        """Overrides at that number of GPUs."""
        if not self.is_replicated:
            return dict(self.overrides)
        replicas = {"parallelism.data_parallel_replicate_degree": str(world_size)}
        return {**self.overrides, **replicas, "parallelism.data_parallel_shard_degree": "1"}


def _file(name: str) -> str:
    return f"benchmarks/settings/{name}.toml"


GPU_CASES = (
    GpuCase(
        "pt_1b", "pretraining, 1.370 B, bf16, DDP, compiled", _file("pt_1b"), {}, is_replicated=True, has_baseline=True
    ),
    GpuCase("pt_1b_float8", "the same with float8 layers", _file("pt_1b"), FLOAT8, is_replicated=True),
    GpuCase("sft_1b", "fine-tuning, 1.370 B, bf16, DDP, packed, compiled", _file("sft_1b"), is_replicated=True),
    GpuCase("pt_8b", "pretraining, 8.568 B, bf16, FSDP, compiled", _file("pt_8b"), has_baseline=True),
    GpuCase("pt_8b_float8", "the same with float8 layers", _file("pt_8b"), FLOAT8),
    GpuCase("sft_8b", "fine-tuning, 8.568 B, bf16, ZeRO-2, packed, compiled", _file("sft_8b")),
)

DEBUG = "benchmarks/settings/debug_cpu.toml"
DATA = Path("outputs/benchmarks/llama3")
FIGURES = ("step_sec", "tokens_per_sec_per_gpu", "trained_tokens_per_sec_per_gpu", "mfu", "peak_memory_gb", "split")
TRACED = {"profiler.enable": "true", "profiler.steady_from": "5", "profiler.steady_steps": "3"}
TRACED_STEPS = 10
DRY_RUN_GPUS = 8
HARDWARE = "titan_speech/estimate/devices.py"
OVERHEAD = Goal("at most", 1.03)
CASES = ("debug_cpu", *(case.name for case in GPU_CASES))


def run(options: Options) -> Found:
    """Raises ValueError for more GPUs than there are."""
    has_gpu, num_gpus = torch.cuda.is_available(), torch.cuda.device_count()
    if not options.is_dry_run and options.world_size not in range(num_gpus + 1):
        found = f"--world-size: found {options.world_size}, expected at most the {num_gpus} GPUs of this machine"
        raise ValueError(f"{found}, or --dry-run")
    cases: list[Case] = []
    ratios: list[Ratio] = []
    if options.wants("debug_cpu"):
        found = _not_measured() if options.is_dry_run else _debug(options)
        cases, ratios = [*found.cases], [*found.ratios]
    wanted = [case for case in GPU_CASES if options.wants(case.name)]
    for case in wanted:
        if options.is_dry_run:
            cases.append(_dry(case, options.world_size or DRY_RUN_GPUS))
        elif has_gpu:
            world_size = options.world_size or num_gpus
            cases.append(_on_gpus(case, options, world_size))
            if case.has_baseline:
                cases.append(_baseline_on_gpus(case, options, world_size))
                ratios.append(_overhead(cases[-2], cases[-1]))
        else:
            cases.append(Case(case.name, case.what, {"config": case.config}, (), dict.fromkeys(FIGURES, "no GPU here")))
    return Found(tuple(cases), (*ratios, *_sft_to_pt(cases)), "" if has_gpu else NO_GPU)


def _not_measured() -> Found:
    config: dict[str, str | float | None] = {"config": DEBUG}
    return Found((Case("debug_cpu", "our trainer, debug model", config, (), dict.fromkeys(FIGURES, "dry run")),))


def _debug(options: Options) -> Found:
    """Ours against TorchTitan's own trainer and text loader, then ours alone, traced."""
    words, rounds = config_words(DEBUG, {}), rounds_of(2, options.is_quick)
    with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder:
        texts = Path(folder) / "texts.jsonl"
        write_texts(Path("demo_data"), "tokenizer/tiny", texts)
        turns = take_turns(
            [
                Variant("debug_cpu", "our trainer, debug model", options.ours, words),
                Variant(
                    "torchtitan",
                    "plain TorchTitan, equal shapes, its own text loader",
                    "benchmarks.loops.torchtitan_text",
                    (str(texts), *words),
                ),
            ],
            rounds,
            tell,
        )
    facts = [("rounds", rounds.num_rounds), ("window_steps", rounds.window_steps)]
    ours, theirs = (case_of(turn, shown(DEBUG, {}, facts)) for turn in turns.values())
    parts = {} if options.is_quick else _split(options, DEBUG, {}, 1)
    ours = Case(ours.name, ours.what, ours.config, (*ours.figures, *_part_figures(parts)), {"mfu": "no peak of a CPU"})
    pair = turns["debug_cpu"], turns["torchtitan"]
    return Found(
        (ours, theirs),
        (
            ratio_of("overhead_over_torchtitan", "seconds per step, ours to TorchTitan's", *pair, step_sec, OVERHEAD),
            ratio_of("cpu_overhead_over_torchtitan", "the same in CPU seconds", *pair, cpu_sec, OVERHEAD),
        ),
    )


def _on_gpus(case: GpuCase, options: Options, world_size: int) -> Case:
    write_stand_ins(DATA, "llama3")
    overrides, rounds = case.words(world_size), rounds_of(1, options.is_quick)
    variant = Variant(case.name, case.what, options.ours, config_words(case.config, overrides), overrides, world_size)
    turn = take_turns([variant], rounds, tell)[case.name]
    facts = [("world_size", world_size), ("rounds", rounds.num_rounds), ("window_steps", rounds.window_steps)]
    found = case_of(turn, shown(case.config, overrides, facts))
    parts = _split(options, case.config, overrides, world_size)
    device = device_key(this_machine(0.0))
    of_peak = _mfu(case, turn, world_size, device)
    reason = f"no peak of {device} in {HARDWARE}"
    reasons = {} if of_peak else {"mfu": reason, "mfu_of_documents": reason}
    return Case(found.name, found.what, found.config, (*found.figures, *of_peak, *_part_figures(parts)), reasons)


def _baseline_on_gpus(case: GpuCase, options: Options, world_size: int) -> Case:
    """Plain TorchTitan at the same size, after ours: two of them do not fit at once."""
    overrides, rounds = case.words(world_size), rounds_of(1, options.is_quick)
    texts = DATA / "texts.jsonl"
    write_texts(DATA / "store", str(DATA / "tokenizer"), texts)
    words = (str(texts.resolve()), *config_words(case.config, overrides))
    name, what = f"torchtitan_{case.name}", f"plain TorchTitan: {case.what}"
    baseline = Variant(name, what, "benchmarks.loops.torchtitan_text", words, overrides, world_size)
    turn = take_turns([baseline], rounds, tell)[name]
    return case_of(turn, shown(case.config, overrides, [("world_size", world_size), ("rounds", rounds.num_rounds)]))


def _overhead(ours: Case, theirs: Case) -> Ratio:
    pairs = zip(ours.figure("step_sec").values, theirs.figure("step_sec").values, strict=True)
    values = [one / other for one, other in pairs]
    what = "seconds per step, ours to TorchTitan's, one after the other"
    return Ratio.of(f"overhead_over_{theirs.name}", what, values, OVERHEAD)


def _mfu(case: GpuCase, turn: Turn, world_size: int, device: str) -> tuple[Figure, ...]:
    """At full length and at the documents' own; nothing where the device's peak is not known."""
    if device not in DEVICES:
        return ()
    config = load_config(list(config_words(case.config, {}))).config
    model, rows = config.model, run_vocabulary(config).vocabulary.num_rows
    of_pack, of_documents = [], []
    for window in turn.windows:
        rate = window.num_tokens / window.wall_sec / world_size
        mean_document = window.sum_squared_lengths / window.num_tokens
        lengths = (config.training.seq_len, mean_document)
        at = [mfu(rate, flops_per_token(model.family, model.flavor, rows, length), device) for length in lengths]
        of_pack.append(at[0])
        of_documents.append(at[1])
    return Figure.of("mfu", "1", of_pack), Figure.of("mfu_of_documents", "1", of_documents)


def _split(options: Options, config: str, overrides: Mapping[str, str], world_size: int) -> dict[str, float]:
    """Shares of a steady step, from a run that does nothing else."""
    with tempfile.TemporaryDirectory(prefix="titan-speech-benchmark-") as folder:
        words = config_words(config, {**overrides, **TRACED, "job.dump_folder": folder})
        traced = Variant("traced", "the same, traced", options.ours, words, world_size=world_size)
        take_turns([traced], Rounds(TRACED_STEPS - 1, 1, 1), tell)
        return split(Path(folder) / "profiling/traces/steady/rank0_trace.json.gz").shares


def _part_figures(parts: Mapping[str, float]) -> tuple[Figure, ...]:
    return tuple(Figure.of(f"share_{name}", "1", [share]) for name, share in parts.items())


def _dry(case: GpuCase, world_size: int) -> Case:
    tell(f"dry run of {case.name} as rank 0 of {world_size}")
    overrides = case.words(world_size)
    config = load_config(list(config_words(case.config, overrides)), world_size=world_size).config
    ran = " ".join(dry_run(config, world_size).lines())
    reason = "dry run on a fake process group: nothing was measured"
    return Case(
        case.name, case.what, shown(case.config, {**overrides, "dry_run": ran}, []), (), dict.fromkeys(FIGURES, reason)
    )


def _sft_to_pt(cases: list[Case]) -> Iterator[Ratio]:
    """Of runs one after the other; a rate of each, at most."""
    by_name = {case.name: case for case in cases if case.figures}
    goals = {aim.case: aim.goal for aim in aims() if aim.figure == "sft_to_pt"}
    for size in ("1b", "8b"):
        if {f"pt_{size}", f"sft_{size}"} <= by_name.keys():
            sft, pt = (by_name[f"{stage}_{size}"].figure("tokens_per_sec_per_gpu").median for stage in ("sft", "pt"))
            yield Ratio.of(f"sft_to_pt_{size}", "tokens per second, ours", [sft / pt], goals.get(f"sft_{size}"))
