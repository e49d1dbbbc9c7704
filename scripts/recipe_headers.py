"""Write the estimated time and memory of the GPU recipes into their heads and into train_configs/README.md.

    python scripts/recipe_headers.py

In: each recipe of train_configs/ whose head says `time ... on N H100`. Out: that line and the one on memory, from its
estimate at N GPUs, and the table of train_configs/README.md. A slow test compares both with the estimates. The
estimates take minutes.
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
from titan_speech.estimate.estimate_run import estimate_runs  # noqa: E402
from titan_speech.estimate.result import EstimateRequest, RunEstimate  # noqa: E402
from titan_speech.preflight.config_checks import load_config  # noqa: E402

FOLDER, PAGE = ROOT / "train_configs", ROOT / "train_configs" / "README.md"
SIZE = re.compile(r"^# time .* on (\d+) H100", re.MULTILINE)
TIME_AND_MEMORY = re.compile(r"^# time .*?(?=^#$)", re.MULTILINE | re.DOTALL)
MARKS = re.compile(r"(<!-- table: estimates -->\n).*?(<!-- end -->)", re.DOTALL)
BACKBONES = {
    "Qwen3-0.6B": ("pt_s1_qwen3_0.6b", "pt_s3_qwen3_0.6b"),
    "Qwen3-1.7B": ("pt_s1", "pt_s3"),
    "Llama-3.2-1B": ("pt_s1_llama3_1b", "pt_s3_llama3_1b"),
    "Llama-3.1-8B": ("pt_s1_llama3_8b", "pt_s3_llama3_8b"),
}
LARGEST_SHOWN = 3


def world_sizes() -> dict[str, int]:
    """Number of GPUs in the head of each GPU recipe, by name."""
    found = {path.stem: SIZE.search(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.toml"))}
    return {name: int(size[1]) for name, size in found.items() if size}


def estimate_recipes(sizes: Mapping[str, int]) -> dict[str, RunEstimate]:
    """Estimates on H100, by name of the recipe."""
    questions = []
    for name, world_size in sizes.items():
        words = ["--job.config_file", f"train_configs/{name}.toml"]
        config = load_config(words, world_size=world_size).config
        questions.append(EstimateRequest(config, name, world_size, DEVICES["h100"]))
    return dict(zip(sizes, estimate_runs(questions), strict=True))


def with_estimate(text: str, estimate: RunEstimate) -> str:
    """The text of a recipe with the estimated lines on time and memory."""
    return TIME_AND_MEMORY.sub(lambda _: head_lines(estimate), text, count=1)


def head_lines(estimate: RunEstimate) -> str:
    speed, memory, world_size = estimate.speed, estimate.memory, estimate.request.world_size
    assert speed is not None
    rates = f"{rounded(speed.tokens_per_sec_per_gpu)} tokens/s per GPU, {rounded(speed.gpu_hours)} GPU hours"
    parts = sorted(memory.by_component.items(), key=lambda part: -part[1])[:LARGEST_SHOWN]
    largest = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts)
    per_gpu = f" per GPU on {world_size}" if world_size > 1 else ""
    return (
        f"# time      {duration(speed.run_hours)} on {world_size} H100 ({rates}) by titan-speech estimate\n"
        f"# memory    {memory.needed_bytes / 1e9:.0f} of 80 GB{per_gpu} (estimated); {largest} GB\n"
    )


def duration(hours: float) -> str:
    if hours < 2:
        minutes = f"{hours * 60:.0f}"
        return "1 minute" if minutes == "1" else f"{minutes} minutes"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def rounded(value: float) -> str:
    """To three significant digits, the precision of the estimate."""
    return f"{value:.3g}" if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def table(estimates: Mapping[str, RunEstimate]) -> str:
    rows = ["| | parameters | GFLOP per token at 2,048 / 4,096 | tokens/s/GPU at 2,048 / 4,096 |", "|---|---|---|---|"]
    for backbone, names in BACKBONES.items():
        both = [estimates[name] for name in names]
        flops = " / ".join(f"{estimate.flops_per_token / 1e9:.3g}" for estimate in both)
        rates = " / ".join(rounded(estimate.speed.tokens_per_sec_per_gpu) for estimate in both if estimate.speed)
        rows.append(f"| {backbone} | {both[0].parameters.total / 1e9:.3f} B | {flops} | {rates} |")
    return "".join(f"{row}\n" for row in rows)


def page(text: str, estimates: Mapping[str, RunEstimate]) -> str:
    """The text of train_configs/README.md with its table from the estimates."""
    text, count = MARKS.subn(lambda found: found[1] + table(estimates) + found[2], text)
    assert count == 1, f"{count} tables of estimates in {PAGE.name}"
    return text


def main() -> None:
    os.chdir(ROOT)
    estimates = estimate_recipes(world_sizes())
    for name, estimate in estimates.items():
        path = FOLDER / f"{name}.toml"
        path.write_text(with_estimate(path.read_text("utf-8"), estimate), encoding="utf-8")
        print(f"{name}: {head_lines(estimate)}", end="")
    PAGE.write_text(page(PAGE.read_text("utf-8"), estimates), encoding="utf-8")


if __name__ == "__main__":
    main()
