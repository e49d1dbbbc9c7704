"""Memory and time of a preference loss at a large vocabulary: `python -m benchmarks.preference_heads [--json OUT]`.

In: vocabulary rows, tokens, width, pairs. Out: for each way the peak of what a pass allocates (counted operator by
operator, so the same on any machine), its time next to that of the chunked cross-entropy in the same process, and the
error of its gradients against fp64.

    cross-entropy   the chunked loss of SFT, for comparison
    chunked         ours: log-probabilities of answers chunk by chunk, then a weighted cross-entropy
    full            ours with one chunk
    plain           log-softmax of all logits, DPO written out, autograd
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchtitan.components.loss import ChunkedLossWrapper
from torchtitan.config import CompileConfig

from benchmarks.deviceless.head_counter import peak_bytes
from benchmarks.machine import write_results
from titan_speech.config.schema_training import PreferenceConfig
from titan_speech.data.pack_layout import ANSWER_SHIFT, ID_MASK
from titan_speech.estimate.tracker import OperatorTracker
from titan_speech.training.loss import GroupedCrossEntropy
from titan_speech.training.preference_loss import AnswerCrossEntropy, PreferenceLoss
from titan_speech.utils.text_table import table_lines

# Shapes: N tokens of one pack, D width, V vocabulary rows.

NUM_CHUNKS, NUM_TIMED = 8, 3
SETTINGS = PreferenceConfig(loss="dpo", beta=0.1)
Loss = Callable[[torch.Tensor, nn.Linear, torch.Tensor], torch.Tensor]


def cross_entropy(hidden_1ND: torch.Tensor, head: nn.Linear, labels_1N: torch.Tensor) -> torch.Tensor:
    loss_fn = GroupedCrossEntropy.Config(num_rows=head.out_features, num_streams=1, kind_boundaries=(1, 2))
    loss = ChunkedLossWrapper.Config(num_chunks=NUM_CHUNKS, loss_fn=loss_fn).build(compile_config=CompileConfig())
    loss.set_lm_head(head)
    return loss(hidden_1ND, labels_1N & ID_MASK, torch.tensor(float(labels_1N.numel())))[0]


def _preference(hidden_1ND: torch.Tensor, head: nn.Linear, labels_1N: torch.Tensor, num_chunks: int) -> torch.Tensor:
    answers = AnswerCrossEntropy.Config(
        num_rows=head.out_features, num_streams=1, kind_boundaries=(1, 2), seq_len=labels_1N.shape[1]
    )
    loss = PreferenceLoss.Config(num_chunks=num_chunks, loss_fn=answers, settings=SETTINGS).build()
    loss.set_lm_head(head)
    loss.num_pairs = torch.tensor(float(labels_1N.max() >> ANSWER_SHIFT) / 2)
    return loss(hidden_1ND, labels_1N)[0]


def chunked(hidden_1ND: torch.Tensor, head: nn.Linear, labels_1N: torch.Tensor) -> torch.Tensor:
    return _preference(hidden_1ND, head, labels_1N, NUM_CHUNKS)


def full(hidden_1ND: torch.Tensor, head: nn.Linear, labels_1N: torch.Tensor) -> torch.Tensor:
    return _preference(hidden_1ND, head, labels_1N, 1)


def plain(hidden_1ND: torch.Tensor, head: nn.Linear, labels_1N: torch.Tensor) -> torch.Tensor:
    log_probs_NV = torch.log_softmax(head(hidden_1ND)[0].float(), dim=-1)
    logp_N = log_probs_NV.gather(1, (labels_1N[0] & ID_MASK)[:, None])[:, 0]
    number_N = labels_1N[0] >> ANSWER_SHIFT
    logp_A = torch.zeros(int(number_N.max()) + 1, dtype=logp_N.dtype).index_add(0, number_N, logp_N)
    return -F.logsigmoid(SETTINGS.beta * (logp_A[1::2] - logp_A[2::2])).mean()


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "chunked": chunked, "full": full, "plain": plain}


def problem(num_tokens: int, dim: int, num_rows: int, num_pairs: int) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    """Hidden states, a head and labels of answers of equal length, all tokens trained, from a fixed seed in fp32."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((1, num_tokens, dim), generator=generator).requires_grad_()
    head = nn.Linear(dim, num_rows, bias=False, device="meta")
    head.weight = nn.Parameter(torch.randn((num_rows, dim), generator=generator) * 0.02)
    number = torch.arange(num_tokens) * 2 * num_pairs // num_tokens + 1
    ids = torch.randint(0, num_rows, (num_tokens,), generator=generator)
    return hidden, head, (ids + (number << ANSWER_SHIFT))[None]


def measure(loss: Loss, sizes: tuple[int, int, int, int]) -> tuple[int, float, torch.Tensor]:
    """Peak bytes of a pass, its median seconds, and the gradient of the hidden states."""
    hidden, head, labels = problem(*sizes)
    tracker = OperatorTracker()
    with tracker:
        loss(hidden, head, labels).backward()
    peak = peak_bytes(tracker.events)
    seconds = []
    for _ in range(NUM_TIMED):
        again, head, labels = problem(*sizes)
        began = time.perf_counter()
        loss(again, head, labels).backward()
        seconds.append(time.perf_counter() - began)
    assert hidden.grad is not None
    return peak, statistics.median(seconds), hidden.grad


def exact_gradient(sizes: tuple[int, int, int, int]) -> torch.Tensor:
    hidden, head, labels = problem(*sizes)
    exact = hidden.detach().double().requires_grad_()
    log_probs_NV = torch.log_softmax(exact[0] @ head.weight.double().T, dim=-1)
    logp_N = log_probs_NV.gather(1, (labels[0] & ID_MASK)[:, None])[:, 0]
    number_N = labels[0] >> ANSWER_SHIFT
    logp_A = torch.zeros(int(number_N.max()) + 1, dtype=torch.float64).index_add(0, number_N, logp_N)
    (-F.logsigmoid(SETTINGS.beta * (logp_A[1::2] - logp_A[2::2])).mean()).backward()
    assert exact.grad is not None
    return exact.grad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=193_920, help="of the vocabulary (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=64, help="width (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    sizes = args.tokens, args.dim, args.rows, args.pairs
    exact = exact_gradient(sizes)
    found = {name: measure(loss, sizes) for name, loss in LOSSES.items()}
    base_sec = found["cross-entropy"][1]
    losses = [
        {
            "name": name,
            "peak_bytes": peak,
            "time_over_cross_entropy": sec / base_sec,
            "hidden_error": None
            if name == "cross-entropy"
            else float((grad.double() - exact).abs().max() / exact.abs().max()),
        }
        for name, (peak, sec, grad) in found.items()
    ]
    record = {"device": "cpu", "num_rows": args.rows, "num_tokens": args.tokens, "dim": args.dim}
    record |= {"num_pairs": args.pairs, "losses": losses}
    if args.json is not None:
        write_results(args.json, record)
    rows = [
        (
            str(one["name"]),
            f"{float(one['peak_bytes']) / 1e9:.3f} GB",
            f"{one['time_over_cross_entropy']:.2f}",
            "" if one["hidden_error"] is None else f"{one['hidden_error']:.1e}",
        )
        for one in losses
    ]
    print("\n".join(table_lines([("loss", "peak", "time", "error"), *rows], "<>>>")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
