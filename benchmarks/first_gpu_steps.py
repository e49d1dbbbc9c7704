"""The steps of `benchmarks.first_gpu`, each a function that returns figures; one is run in a process of its own.

In: the name of a step. Out: a JSON of its figures. Steps that train are in first_gpu_training.py; those here ask the
device. With `--debug` every step does the same with the debug model on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.first_gpu import Step
from benchmarks.first_gpu_training import packed_positions, resume, settings_file, training

STEPS = (
    Step("environment", "device, versions, driver", 30, 5),
    Step("attention", "flex against dense on a real packed batch, forward and backward", 60, 20),
    Step("peaks", "products, memory, attention: what the estimate assumes", 40, 15),
    Step("pt_1b_8", "1B, bf16, 8 packs, selective recomputation; no compilation after the first steps", 90, 50),
    Step("pt_1b_8_none", "the same without recomputation", 75, 45),
    Step("pt_1b_8_float8", "the same, float8 rowwise", 90, 50),
    Step("pt_1b_4", "1B, bf16, 4 packs, selective recomputation", 75, 45),
    Step("pt_1b_4_none", "the same without recomputation, as the recipe", 75, 45),
    Step("pt_1b_8_graphs", "1B, bf16, 8 packs, CUDA graphs", 90, 50),
    Step("sft_1b", "fine-tuning, 1B, bf16, 8 packs", 75, 45),
    Step("pt_0.6b_8", "Qwen3-0.6B, bf16, 8 packs, selective recomputation", 75, 45),
    Step("loss_heads", "heads of the loss: rate, memory, gradients, loss after 20 steps", 60, 20),
    Step("pt_8b_4_layers", "8B, bf16, 4 layers; with the next, scaled to 32", 90, 50),
    Step("pt_8b_2_layers", "8B, bf16, 2 layers", 75, 45),
    Step("pt_8b_4_layers_float8", "8B, float8, 4 layers", 90, 50),
    Step("pt_1b_8_none_seed1", "1B, bf16 from a second seed, for the spread of the difference to float8", 75, 45),
    Step("pt_1b_8_float8_seed1", "float8 from the second seed", 90, 50),
    Step("resume", "a background save, the step that waits for it, and a resume to the same bits", 150, 80),
)
FLOAT8 = {"float8.recipe": "rowwise"}
NO_RECOMPUTATION = {"activation_checkpoint.kind": "none"}
SECOND_SEED = {"job.seed": "1", "data.seed": "1"}


def environment(debug: bool) -> dict[str, Any]:
    import torch

    from benchmarks.machine import device_key, this_machine

    machine = this_machine(0.0)
    found: dict[str, Any] = {"device": device_key(machine), "name": machine.device, "versions": machine.versions}
    found["machine"] = asdict(machine)
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found |= {"free_gib": free / 2**30, "memory_gib": total / 2**30, "cuda": torch.version.cuda}
    elif not debug:
        raise RuntimeError("there is no GPU here; --debug runs the logic on a CPU")
    return found


def attention(debug: bool) -> dict[str, Any]:
    """The largest difference of outputs and gradients, over the largest entry; bf16 against dense fp32."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask
    from torchtitan.models.common.attention import FlexAttention, get_document_mask_mod

    from titan_speech.model.attention import DenseDocumentAttention

    device = _device()
    positions_BL = packed_positions(2, 256 if debug else 2048).to(device)
    num_packs, length = positions_BL.shape
    mask = create_block_mask(get_document_mask_mod(positions_BL), num_packs, None, length, length, device=device)
    torch.manual_seed(0)
    shapes = ((num_packs, length, 32, 64), (num_packs, length, 8, 64), (num_packs, length, 8, 64))
    exact = [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    flex: Any = (DenseDocumentAttention if debug else FlexAttention).Config().build()  # flex has no backward on a CPU
    dense: Any = DenseDocumentAttention.Config().build()
    found = flex(*rounded, attention_masks=mask, enable_gqa=True)
    expected = dense(*exact, attention_masks=mask, enable_gqa=True)
    for out in (found, expected):
        out.float().square().mean().backward()
    gaps = {"output": _gap(found, expected)}
    for name, one, other in zip(("queries", "keys", "values"), rounded, exact, strict=True):
        assert one.grad is not None
        gaps[f"gradient of {name}"] = _gap(one.grad, other.grad)
    if max(gaps.values()) > 0.05:
        raise RuntimeError(f"flex and dense attention differ: {gaps}")
    return gaps


def _gap(found: Any, expected: Any) -> float:
    return float((found.float() - expected).abs().max() / expected.abs().max())


def peaks(debug: bool) -> dict[str, Any]:
    """What this device reaches, over its datasheet where it has one: the data of `estimate --calibrate`."""
    import torch

    from benchmarks.machine import device_key, this_machine
    from titan_speech.estimate.devices import DEVICES

    size, device = (256 if debug else 8192), _device()
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    product_rate = 2 * size**3 / _median_sec(lambda: left @ right)
    large = torch.empty((1 << 20) if debug else (1 << 30), device=device, dtype=torch.bfloat16)
    copy_rate = 2 * large.nbytes / _median_sec(lambda: large.copy_(large.neg())) * 2  # two kernels read and write
    found: dict[str, Any] = {"product_tflops": product_rate / 1e12, "memory_gb_per_sec": copy_rate / 1e9}
    known = DEVICES.get(device_key(this_machine(0.0)))
    if known is not None and known.bf16_flops:
        found["efficiencies"] = {
            "products": min(1.0, product_rate / known.bf16_flops * (size + 330) / size),
            "memory": min(1.0, copy_rate / known.memory_bytes_per_sec),
            "chip_bf16_flops": product_rate,
            **_attention_efficiencies(known.bf16_flops),
        }
    return found


def _attention_efficiencies(peak: float) -> dict[str, float]:
    """Flex attention on packed documents: FLOPs as the estimate counts them, over the peak."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask
    from torchtitan.models.common.attention import FlexAttention, get_document_mask_mod

    from titan_speech.estimate.speed_by_parts import ATTENTION_BLOCK

    positions_BL = packed_positions(8, 2048).cuda()
    mask = create_block_mask(get_document_mask_mod(positions_BL), 8, None, 2048, 2048, device="cuda")
    heads = [torch.randn(8, 2048, number, 64, device="cuda", dtype=torch.bfloat16) for number in (32, 8, 8)]
    module: Any = FlexAttention.Config().build()
    attended = float(positions_BL.float().mean()) + 1 + ATTENTION_BLOCK
    flops = 4 * attended * 32 * 64 * 8 * 2048
    forward = _median_sec(lambda: module(*heads, attention_masks=mask, enable_gqa=True))
    inputs = [x.requires_grad_() for x in heads]
    both = _median_sec(lambda: module(*inputs, attention_masks=mask, enable_gqa=True).sum().backward())
    backward = max(both - forward, forward)
    return {
        "attention_forward": min(1.0, flops / forward / peak),
        "attention_backward": min(1.0, 2.5 * flops / backward / peak),
    }


def _median_sec(call: Callable[[], Any], times: int = 10) -> float:
    import torch

    found = []
    for _ in range(times + 3):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found[3:])


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def loss_heads(debug: bool) -> dict[str, Any]:
    from benchmarks.loss_heads import available_heads, measure

    sizes, device = ((64, 32, 4096) if debug else (2048, 2048, 193_920)), _device()
    found = [measure(name, head, sizes, 20, device) for name, head in available_heads().items()]
    return {
        one.name: f"{one.sec * 1e3:.1f} ms, {one.peak_bytes / 1e9:.2f} GB, loss {one.loss_after:.4f}" for one in found
    }


def run_step(name: str, debug: bool) -> dict[str, Any]:
    """The figures of a step.

    Raises:
        RuntimeError: it found a defect.
    """
    plain: dict[str, Callable[[bool], dict[str, Any]]] = {
        "environment": environment,
        "attention": attention,
        "peaks": peaks,
        "loss_heads": loss_heads,
        "resume": resume,
    }
    if name in plain:
        return plain[name](debug)
    case = next(case for case in ("pt_1b", "sft_1b", "pt_0.6b", "pt_8b") if name.startswith(case))
    overrides = {"training.local_batch_packs": "4" if "_4" in name and "layers" not in name else "8"}
    if "float8" in name:
        overrides |= FLOAT8
    if name.removesuffix("_seed1").endswith("_none"):
        overrides |= NO_RECOMPUTATION
    if name.endswith("_seed1"):
        overrides |= SECOND_SEED
    if name.endswith("_graphs"):
        overrides["training.cuda_graphs"] = "true"
    layers = int(name.split("_")[2]) if "layers" in name else 0
    return training(settings_file("debug" if debug else case), overrides, debug, layers)


def end_with_parent() -> None:
    """When the process that started this one is gone, end this one and all it started: a GPU has no room for two."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.25)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=[step.name for step in STEPS])
    parser.add_argument("out", type=Path)
    parser.add_argument("--debug", action="store_true")
    args = parser.parse_args()
    end_with_parent()
    try:
        figures = run_step(args.step, args.debug)
    except RuntimeError as error:
        print(f"{args.step}: {error}", file=sys.stderr)
        return 1
    args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
