"""Fine-tuning on bundled paired speech: our packs against padded and packed loops of others, in trained tokens per
second.

In: options. Out: five variants on the same samples with the same prompt templates, model sizes and precision: ours
packed (eager and compiled), a padded loop as the reference trainer is described, Hugging Face Trainer with padding and
with its packing collator. And our own pretraining against our fine-tuning, in tokens per second: equal where packing
makes lengths fixed. Batches are of about the same number of real tokens for both packed variants, and of the
reference's 8 samples for both padded ones.
"""

from __future__ import annotations

import torch

from benchmarks.bundled import paired_samples
from benchmarks.record import Case, Goal
from benchmarks.suite import (
    NO_GPU,
    Found,
    Options,
    case_of,
    config_words,
    ratio_of,
    rounds_of,
    shown,
    tell,
    token_cpu_rate,
    token_rate,
    trained_cpu_rate,
    trained_rate,
)
from benchmarks.turns import Variant, take_turns
from titan_speech.preflight.config_checks import load_config

CONFIG, PRETRAINING = "benchmarks/settings/debug_cpu_sft.toml", "benchmarks/settings/debug_cpu.toml"
PADDED_SAMPLES = 8
"""Sequences of a batch on each GPU in the published runs."""

CASES = ("ours", "ours_compiled", "ours_pretraining", "padded_loop", "hf_padding", "hf_packing")
COMPILED = {"compile.enable": "true", "job.dump_folder": "outputs/benchmarks/debug_cpu_sft_compiled"}
"""A folder of its own, since no two runs may write one."""
PACKED_ON_GPU = Goal("at least", 1.1)
NOTE = "" if torch.cuda.is_available() else NO_GPU
SFT_TO_PT = Goal("at least", 0.95)
GOALS = {
    "padded_loop": Goal("at least", 2.0),
    "hf_padding": Goal("at least", 2.0),
    "hf_packing": PACKED_ON_GPU if torch.cuda.is_available() else Goal("at least", 1.0),
}


def run(options: Options) -> Found:
    words = config_words(CONFIG, {})
    config = load_config(list(words)).config
    samples = paired_samples(config)
    mean_tokens = sum(len(one.ids) for one in samples) / len(samples)
    packed_samples = round(config.training.global_batch_tokens / mean_tokens)
    variants = [
        Variant("ours", "packs of 512 tokens, eager", options.ours, words),
        Variant("ours_compiled", "packs, compiled", options.ours, config_words(CONFIG, COMPILED), COMPILED),
        Variant("ours_pretraining", "our pretraining, eager", options.ours, config_words(PRETRAINING, {})),
        Variant(
            "padded_loop",
            f"batches of {PADDED_SAMPLES} padded to the longest, as the reference trainer is described",
            "benchmarks.loops.padded_sft",
            (str(PADDED_SAMPLES), *words),
        ),
        Variant(
            "hf_padding",
            f"Hugging Face Trainer, batches of {PADDED_SAMPLES}, DataCollatorForSeq2Seq",
            "benchmarks.loops.hf_trainer",
            ("padding", str(PADDED_SAMPLES), *words),
        ),
        Variant(
            "hf_packing",
            f"Hugging Face Trainer, batches of {packed_samples}, DataCollatorWithFlattening",
            "benchmarks.loops.hf_trainer",
            ("packing", str(packed_samples), *words),
        ),
    ]
    assert tuple(one.name for one in variants) == CASES
    wanted = [one for one in variants if options.wants(one.name)]
    if options.is_quick and not options.only:  # compilation takes a minute
        wanted = [one for one in wanted if one.name != "ours_compiled"]
    facts = [("samples", float(len(samples))), ("mean_tokens", mean_tokens)]
    if options.is_dry_run:
        reason = {"trained_tokens_per_sec_per_gpu": "dry run"}
        return Found(tuple(Case(one.name, one.what, {"config": CONFIG}, (), reason) for one in wanted), (), NOTE)
    rounds = rounds_of(len(wanted), options.is_quick)
    turns = take_turns(wanted, rounds, tell)
    facts += [("rounds", rounds.num_rounds), ("window_steps", rounds.window_steps)]
    cases = tuple(case_of(turn, shown(CONFIG, dict(turn.variant.config), facts)) for turn in turns.values())
    ratios = []
    for ours in ("ours", "ours_compiled"):
        for baseline, goal in GOALS.items():
            if ours in turns and baseline in turns:
                name, pair = f"{ours}_to_{baseline}", (turns[ours], turns[baseline])
                ratios.append(ratio_of(name, "trained tokens per second", *pair, trained_rate, goal))
                ratios.append(ratio_of(f"cpu_{name}", "trained tokens per CPU second", *pair, trained_cpu_rate, goal))
    if {"ours", "ours_compiled"} <= turns.keys():
        pair = turns["ours_compiled"], turns["ours"]
        ratios.append(ratio_of("compiled_to_eager", "tokens per second, ours", *pair, token_rate))
        ratios.append(ratio_of("cpu_compiled_to_eager", "tokens per CPU second, ours", *pair, token_cpu_rate))
    if {"ours", "ours_pretraining"} <= turns.keys():
        pair = turns["ours"], turns["ours_pretraining"]
        ratios.append(ratio_of("sft_to_pt", "tokens per second, ours", *pair, token_rate, SFT_TO_PT))
        ratios.append(ratio_of("cpu_sft_to_pt", "tokens per CPU second, ours", *pair, token_cpu_rate, SFT_TO_PT))
    return Found(cases, tuple(ratios), NOTE)
