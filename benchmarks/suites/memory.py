"""Peak memory: chunked against full logits, and real runs against their estimate.

In: options. Out: for each setup the peak of the tensors of a real run, from torch's own record of its allocator, and
the estimate. Byte counts repeat, so each is taken once. The vocabulary of the chunked pair is Qwen3's extended one,
217,600 rows, where logits are the largest tensors of a step.
"""

from __future__ import annotations

from benchmarks.plan_memory import Setup, computed, measure
from benchmarks.record import Case, Figure, Goal, Ratio
from benchmarks.suite import NO_GPU, Found, Options, tell

NO_TOKENIZER = "models/Qwen3-0.6B"
"""Is not there, so rows are those of the published backbones."""

LARGE = Setup("debug", tokenizer=NO_TOKENIZER, family="qwen3")
SETUPS = {
    "whole_logits": (Setup(**{**vars(LARGE), "num_chunks": 1}), "217,600 rows, 4 packs of 256, whole logits, fp32"),
    "chunked_logits": (Setup(**{**vars(LARGE), "num_chunks": 8}), "the same in 8 chunks"),
    "fp32": (Setup("debug"), "69,760 rows, fp32"),
    "bf16_fp32_masters": (Setup("debug", compute_type="bfloat16"), "bf16 with fp32 masters"),
    "bf16_100M": (Setup("100M", compute_type="bfloat16"), "100 M parameters, bf16 with fp32 masters"),
    "bf16_100M_recomputed": (Setup("100M", "full", compute_type="bfloat16"), "the same, all layers recomputed"),
}
CASES = tuple(SETUPS)
QUICK = ("whole_logits", "chunked_logits", "bf16_fp32_masters")
"""Unless --only names others."""


def run(options: Options) -> Found:
    cases, ratios, held = [], [], {}
    for name, (setup, what) in SETUPS.items():
        if not options.wants(name) or (options.is_quick and not options.only and name not in QUICK):
            continue
        tell(f"{name}: {what}")
        config: dict[str, str | float | None] = dict(vars(setup))
        if options.is_dry_run:
            cases.append(Case(name, what, config, (), {"tensors_gb": "dry run"}))
            continue
        said, held[name] = sum(computed(setup).values()), measure(setup, "tensors")
        figures = (
            Figure.of("tensors_gb", "GB", [held[name] / 1e9]),
            Figure.of("computed_by_the_plan_gb", "GB", [said / 1e9]),
        )
        cases.append(Case(name, what, config, figures))
        ratios.append(Ratio.of(f"plan_to_run_{name}", "computed over held bytes", [said / held[name]]))
    if {"chunked_logits", "whole_logits"} <= held.keys():
        value = held["chunked_logits"] / held["whole_logits"]
        goal = Goal("at most", 0.5)
        ratios.append(Ratio.of("chunked_to_whole_logits", "peak bytes of tensors", [value], goal))
    return Found(tuple(cases), tuple(ratios), NO_GPU)
