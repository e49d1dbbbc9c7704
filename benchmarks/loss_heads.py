"""Heads of the loss at a large vocabulary, side by side: `python -m benchmarks.loss_heads [--rows N] [--json OUT]`.

In: vocabulary rows, tokens, width, steps. Out: for each head the peak of what it allocates, the error of its gradients
against fp64, and the loss after the same steps from the same start, because a faster head that loses precision shows
there and nowhere else. On a GPU also the time of a forward and backward pass. Every head must give the loss of each
token (`reduction="none"`), since losses are reported by group from the same pass; one that cannot is measured and
marked.

    chunked   TorchTitan's chunked loss over ours: logits of one chunk at a time, backward within the forward pass
    full      all logits at once
    torch     torch.nn.functional.linear_cross_entropy with its options, for each token and summed
    liger     liger-kernel's fused head, where it is installed and there is a GPU
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.config import CompileConfig

from titan_speech.estimate.tracker import OperatorTracker
from titan_speech.training.loss import GroupedCrossEntropy
from titan_speech.utils.files import write_atomically
from titan_speech.utils.text_table import table_lines

# Shapes: N tokens, D width, V vocabulary rows.

Head = Callable[[torch.Tensor, nn.Linear, torch.Tensor], torch.Tensor]
"""Hidden states [1, N, D], the head's matrix and ids [1, N] to the mean loss; gradients follow by backward()."""
NUM_CHUNKS = 8


def chunked(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
    loss_fn = GroupedCrossEntropy.Config(num_rows=head.out_features, num_streams=1, kind_boundaries=(1, 2))
    wrapper = ChunkedLossWrapper.Config(num_chunks=NUM_CHUNKS, loss_fn=loss_fn).build(compile_config=CompileConfig())
    wrapper.set_lm_head(head)
    loss, _ = wrapper(hidden_1ND, ids_1N, torch.tensor(float(ids_1N.numel()), device=ids_1N.device))
    return loss


def full(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(head(hidden_1ND)[0].float(), ids_1N[0], reduction="none").mean()


def of_torch(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
    options = nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden_1ND[0], head.weight, ids_1N[0], reduction="none", options=options).mean()


def of_torch_summed(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
    options = nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden_1ND[0], head.weight, ids_1N[0], reduction="mean", options=options)


def of_liger(hidden_1ND: torch.Tensor, head: nn.Linear, ids_1N: torch.Tensor) -> torch.Tensor:
    from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
        liger_fused_linear_cross_entropy,
    )

    return liger_fused_linear_cross_entropy(hidden_1ND[0], head.weight, ids_1N[0], reduction="mean")


def available_heads() -> dict[str, Head]:
    heads: dict[str, Head] = {"chunked": chunked, "full": full}
    if hasattr(F, "linear_cross_entropy"):
        heads["torch"], heads["torch, summed"] = of_torch, of_torch_summed
    if torch.cuda.is_available() and find_spec("liger_kernel") is not None:
        heads["liger"] = of_liger
    return heads


PER_TOKEN = {"chunked": True, "full": True, "torch": True, "torch, summed": False, "liger": False}
"""Whether a head, as it is called here, gives the loss of each token."""


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
    tracker = OperatorTracker()
    with tracker:
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
        peak_bytes=_peak(tracker),
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


def _peak(tracker: OperatorTracker) -> int:
    held = peak = 0
    for event in tracker.events:
        held += event.change
        peak = max(peak, held)
    return peak


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=193_920, help="of the vocabulary (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=64, help="width (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", default=(), help="heads to measure")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    device, sizes = "cuda" if torch.cuda.is_available() else "cpu", (args.tokens, args.dim, args.rows)
    heads = {name: head for name, head in available_heads().items() if not args.only or name in args.only}
    results = [measure(name, head, sizes, args.steps, device) for name, head in heads.items()]
    if args.json is not None:
        record: dict[str, Any] = {"device": device, "num_tokens": args.tokens, "dim": args.dim, "num_rows": args.rows}
        record |= {"num_steps": args.steps, "heads": [asdict(one) for one in results]}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.json, json.dumps(record, indent=1) + "\n")
    print("\n".join(table(results, args.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
