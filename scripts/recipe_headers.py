"""Write what the plan expects of the recipes for GPUs, time and memory, into their heads and into the page on them.

    python scripts/recipe_headers.py

In: each recipe of train_configs/ whose head says `time ... on N H100`. Out: that line and the one on memory made anew
from its plan at N GPUs, and the table of train_configs/README.md. A slow test holds both to the plans. Takes minutes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from titan_speech.estimate.devices import DEVICES  # noqa: E402
from titan_speech.estimate.run import estimate_runs  # noqa: E402
from titan_speech.estimate.run_estimate import EstimateRequest, RunEstimate  # noqa: E402
from titan_speech.preflight.config_checks import load_config  # noqa: E402

FOLDER, PAGE = ROOT / "train_configs", ROOT / "train_configs" / "README.md"
SIZE = re.compile(r"^# time .* on (\d+) H100", re.MULTILINE)
FIGURES = re.compile(r"^# time .*?(?=^#$)", re.MULTILINE | re.DOTALL)
MARKS = re.compile(r"(<!-- table: plans -->\n).*?(<!-- end -->)", re.DOTALL)
BACKBONES = {
    "Qwen3-0.6B": ("pt_s1_qwen3_0.6b", "pt_s3_qwen3_0.6b"),
    "Qwen3-1.7B": ("pt_s1", "pt_s3"),
    "Llama-3.2-1B": ("pt_s1_llama3_1b", "pt_s3_llama3_1b"),
    "Llama-3.1-8B": ("pt_s1_llama3_8b", "pt_s3_llama3_8b"),
}
LARGEST_SHOWN = 3


def world_sizes() -> dict[str, int]:
    """GPUs that the head of each recipe speaks of; recipes for a CPU are not among them."""
    found = {path.stem: SIZE.search(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.toml"))}
    return {name: int(size[1]) for name, size in found.items() if size}


def plans_of(sizes: Mapping[str, int]) -> dict[str, RunEstimate]:
    """Plans on H100, of recipes by name."""
    questions = []
    for name, world_size in sizes.items():
        words = ["--job.config_file", f"train_configs/{name}.toml"]
        config = load_config(words, world_size=world_size).config
        questions.append(EstimateRequest(config, name, world_size, DEVICES["h100"]))
    return dict(zip(sizes, estimate_runs(questions), strict=True))


def with_figures(text: str, plan: RunEstimate) -> str:
    """The text of a recipe with its lines on time and memory as planned."""
    return FIGURES.sub(lambda _: head_lines(plan), text, count=1)


def head_lines(plan: RunEstimate) -> str:
    speed, memory, world_size = plan.speed, plan.memory, plan.request.world_size
    assert speed is not None
    each = f"{rounded(speed.tokens_per_sec_per_gpu)} tokens/s each, {rounded(speed.gpu_hours)} GPU hours"
    parts = sorted(memory.by_component.items(), key=lambda part: -part[1])[:LARGEST_SHOWN]
    largest = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts)
    each_of = f" each on {world_size}" if world_size > 1 else ""
    return (
        f"# time      {duration(speed.run_hours)} on {world_size} H100 ({each}) by titan-speech estimate\n"
        f"# memory    {memory.needed_bytes / 1e9:.0f} of 80 GB{each_of} by titan-speech estimate; {largest} GB\n"
    )


def duration(hours: float) -> str:
    if hours < 2:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def rounded(value: float) -> str:
    """To three digits, of what is not more exact than that."""
    return f"{value:.3g}" if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def table(plans: Mapping[str, RunEstimate]) -> str:
    rows = ["| | parameters | GFLOP a token at 2,048 / 4,096 | tokens/s/GPU at 2,048 / 4,096 |", "|---|---|---|---|"]
    for backbone, names in BACKBONES.items():
        both = [plans[name] for name in names]
        flops = " / ".join(f"{plan.flops_per_token / 1e9:.3g}" for plan in both)
        rates = " / ".join(rounded(plan.speed.tokens_per_sec_per_gpu) for plan in both if plan.speed)
        rows.append(f"| {backbone} | {both[0].parameters.total / 1e9:.3f} B | {flops} | {rates} |")
    return "".join(f"{row}\n" for row in rows)


def page(text: str, plans: Mapping[str, RunEstimate]) -> str:
    """The page on recipes with its table made anew."""
    text, count = MARKS.subn(lambda found: found[1] + table(plans) + found[2], text)
    assert count == 1, f"{count} places for the table of plans in {PAGE.name}"
    return text


def main() -> None:
    os.chdir(ROOT)
    plans = plans_of(world_sizes())
    for name, plan in plans.items():
        path = FOLDER / f"{name}.toml"
        path.write_text(with_figures(path.read_text("utf-8"), plan), encoding="utf-8")
        print(f"{name}: {head_lines(plan)}", end="")
    PAGE.write_text(page(PAGE.read_text("utf-8"), plans), encoding="utf-8")


if __name__ == "__main__":
    main()
