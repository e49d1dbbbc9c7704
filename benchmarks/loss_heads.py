"""Heads of the loss at a large vocabulary, side by side: `python -m benchmarks.loss_heads [--rows N] [--json OUT]`.

In: vocabulary rows, tokens, width, steps. Out: for each head the error of its gradients against fp64 and the loss after
the same steps from the same start, because a faster head that loses precision shows there and nowhere else; on a GPU
also the time of a forward and backward pass. `--arch sm_90` adds, without a GPU, what a pass at a run's full size takes
there: launches, bytes, peak memory (deviceless/heads.py). Every head must give the loss of each token
(`reduction="none"`), since losses are reported by group from the same pass; one that cannot is measured and marked.
The rule that follows is `titan_speech/estimate/loss_head.py`.
Liger's head is measured where liger-kernel is installed, on a CPU with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.deviceless.child_process import run_child
from benchmarks.deviceless.head_counter import HeadCounter
from benchmarks.deviceless.heads import HeadCount, HeadsRequest
from benchmarks.loss_head_kinds import PER_TOKEN, Head, available_heads
from benchmarks.machine import write_results
from titan_speech.utils.text_table import table_lines

# Shapes: N tokens, D width, V vocabulary rows.


@dataclass(frozen=True)
class HeadResult:
    """What was measured of one head."""

    name: str
    peak_bytes: int
    """Allocated during a pass, beyond what was there before."""
    hidden_error: float
    """Largest error of the gradient of hidden states over its largest entry, against fp64."""
    weight_error: float
    loss_after: float
    """Mean over the fixed batch after the steps."""
    sec: float
    """Of a pass; of this machine."""
    gives_losses_of_tokens: bool


def problem(num_tokens: int, dim: int, num_rows: int, device: str) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    """Hidden states, a head and targets from a fixed seed, in bf16."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((1, num_tokens, dim), generator=generator)
    weight = torch.randn((num_rows, dim), generator=generator) * 0.02
    ids = torch.randint(0, num_rows, (1, num_tokens), generator=generator)
    head = nn.Linear(dim, num_rows, bias=False, device="meta")
    head.weight = nn.Parameter(weight.to(device, torch.bfloat16))
    return hidden.to(device, torch.bfloat16).requires_grad_(), head, ids.to(device)


def measure(name: str, head_of: Head, sizes: tuple[int, int, int], num_steps: int, device: str) -> HeadResult:
    hidden, head, ids = problem(*sizes, device)
    counter = HeadCounter(sizes[0])
    with counter:
        head_of(hidden, head, ids).backward()
    began = time.perf_counter()
    again, head_again, ids = problem(*sizes, device)
    head_of(again, head_again, ids).backward()
    if device == "cuda":
        torch.cuda.synchronize()
    sec = time.perf_counter() - began
    exact_hidden, exact_weight = exact_gradients(sizes, device)
    return HeadResult(
        name=name,
        peak_bytes=counter.peak_bytes,
        hidden_error=_error(hidden.grad, exact_hidden),
        weight_error=_error(head.weight.grad, exact_weight),
        loss_after=loss_after(head_of, sizes, num_steps, device),
        sec=sec,
        gives_losses_of_tokens=PER_TOKEN[name],
    )


def exact_gradients(sizes: tuple[int, int, int], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, head, ids = problem(*sizes, device)
    exact, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, head.weight))
    F.cross_entropy(exact[0] @ weight.T, ids[0]).backward()
    assert exact.grad is not None
    assert weight.grad is not None
    return exact.grad, weight.grad


def loss_after(head_of: Head, sizes: tuple[int, int, int], num_steps: int, device: str) -> float:
    """The loss of the batch in fp64 after AdamW's steps on fp32 copies of head and hidden states."""
    hidden, head, ids = problem(*sizes, device)
    masters = [nn.Parameter(tensor.detach().float()) for tensor in (hidden, head.weight)]
    optimizer = torch.optim.AdamW(masters, lr=1e-2, weight_decay=0.0)
    for _ in range(num_steps):
        hidden.grad = head.weight.grad = None
        head_of(hidden, head, ids).backward()
        for master, working in zip(masters, (hidden, head.weight), strict=True):
            assert working.grad is not None
            master.grad = working.grad.float()
        optimizer.step()
        with torch.no_grad():
            for master, working in zip(masters, (hidden, head.weight), strict=True):
                working.copy_(master)
    with torch.no_grad():
        return float(F.cross_entropy(masters[0][0].double() @ masters[1].double().T, ids[0]))


def _error(found: torch.Tensor | None, exact: torch.Tensor) -> float:
    assert found is not None
    return float((found.double() - exact).abs().max() / exact.abs().max())


def table(results: Sequence[HeadResult], num_steps: int) -> list[str]:
    head = ("head", "peak", "error, hidden", "error, weight", f"loss after {num_steps}", "pass", "loss of each token")
    rows = [
        (
            one.name,
            f"{one.peak_bytes / 1e9:.3f} GB",
            f"{one.hidden_error:.1e}",
            f"{one.weight_error:.1e}",
            f"{one.loss_after:.4f}",
            f"{one.sec:.2f} s",
            "yes" if one.gives_losses_of_tokens else "NO",
        )
        for one in results
    ]
    return table_lines([head, *rows], "<>>>>><")


def counted(request: HeadsRequest) -> list[HeadCount]:
    """What a pass of each head takes on a GPU that is not here."""
    record = run_child("benchmarks.deviceless.heads", asdict(request))
    return [HeadCount(**count) for count in record]


def table_of_counts(counts: Sequence[HeadCount]) -> list[str]:
    head = ("head", "launches", "products", "moved", "peak", "host syncs", "registers", "spilled", "")
    rows = [
        (
            one.name,
            f"{one.num_launches:,}",
            f"{one.num_products:,}",
            f"{one.moved_bytes / 1e9:.1f} GB",
            f"{one.peak_bytes / 1e9:.2f} GB",
            f"{one.num_host_syncs}",
            f"{one.max_registers}",
            f"{one.max_spilled_bytes:,}",
            one.error.partition("\n")[0][:80],
        )
        for one in counts
    ]
    return table_lines([head, *rows], "<>>>>>>><")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=193_920, help="of the vocabulary (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="measured here (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=64, help="width of what is measured here (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", default=(), help="heads to measure")
    parser.add_argument("--arch", choices=("sm_90", "sm_100"), help="also count a pass there at full size")
    parser.add_argument("--full-tokens", type=int, default=8192, help="of that pass (default: 4 packs of 2,048)")
    parser.add_argument("--full-dim", type=int, default=2048, help="width of that pass (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write; what it has of other heads is kept")
    args = parser.parse_args()
    device, sizes = "cuda" if torch.cuda.is_available() else "cpu", (args.tokens, args.dim, args.rows)
    record: dict[str, Any] = {"device": device, "num_tokens": args.tokens, "dim": args.dim, "num_rows": args.rows}
    record |= {"num_steps": args.steps}
    known = json.loads(args.json.read_text("utf-8")) if args.json is not None and args.json.exists() else {}
    kept = known if {name: known.get(name) for name in record} == record else {}
    if args.arch is not None:
        request = HeadsRequest(args.arch, args.rows, args.full_tokens, args.full_dim, tuple(args.only))
        record["counted"] = {**asdict(request), "heads": [asdict(one) for one in counted(request)]}
    elif "counted" in kept:
        record["counted"] = kept["counted"]
    heads = {name: head for name, head in available_heads().items() if not args.only or name in args.only}
    results = {one["name"]: one for one in kept.get("heads", ())}
    for name, head in heads.items():
        results[name] = asdict(measure(name, head, sizes, args.steps, device))
        record["heads"] = [results[name] for name in PER_TOKEN if name in results]
        if args.json is not None:
            write_results(args.json, record)
    print("\n".join(table([HeadResult(**one) for one in record["heads"]], args.steps)))
    if "counted" in record:
        print("\n".join(("", *table_of_counts([HeadCount(**one) for one in record["counted"]["heads"]]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
