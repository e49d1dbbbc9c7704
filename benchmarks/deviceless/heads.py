"""Heads of the loss at a run's full size on a GPU that is not here, in a process of its own.

In: a file with a `HeadsRequest`. Out: a file with a `HeadCount` for each head: launches, matrix products, bytes, host
syncs and the peak of memory in a forward and backward pass on fake CUDA tensors. What a head compiles is compiled for
the architecture, its Triton kernels to machine code; nothing is executed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class HeadsRequest:
    """What is counted."""

    architecture: str
    num_rows: int
    num_tokens: int
    dim: int
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeadCount:
    """What a pass of one head takes."""

    name: str
    num_launches: int
    num_products: int
    moved_bytes: int
    peak_bytes: int
    """Allocated during the pass, gradients included."""
    num_host_syncs: int
    max_registers: int
    """Of its Triton kernels."""
    max_spilled_bytes: int
    error: str = ""


def main(request_file: Path, out: Path) -> None:
    request = HeadsRequest(**json.loads(request_file.read_text(encoding="utf-8")))
    counts = count_heads(request)
    out.write_text(json.dumps([asdict(count) for count in counts]), encoding="utf-8")


def count_heads(request: HeadsRequest) -> list[HeadCount]:
    from titan_speech.utils.logging import silence_library_warnings

    silence_library_warnings()
    from benchmarks.deviceless.pretended_gpu import ARCHITECTURES, pretend

    architecture = ARCHITECTURES[request.architecture]
    pretend(architecture)
    from benchmarks.deviceless.kernels import record_compilations

    recorder = record_compilations(architecture.shared_bytes)
    from benchmarks.loss_head_kinds import compiled_heads

    heads = {name: head for name, head in compiled_heads().items() if name in request.only or not request.only}
    return [_count(name, head, request, recorder, architecture.shared_bytes) for name, head in heads.items()]


def _count(
    name: str, head_of: Callable[..., Any], request: HeadsRequest, recorder: Any, shared_limit: int
) -> HeadCount:
    import torch
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode

    from benchmarks.deviceless.head_counter import HeadCounter
    from benchmarks.deviceless.kernels import no_tracking

    first, error = len(recorder.kernels), ""
    counter = HeadCounter(request.num_tokens)
    recorder.running = no_tracking
    with FakeTensorMode(allow_non_fake_inputs=True), _triton_kernels_counted(recorder, counter, shared_limit):
        hidden = torch.empty(1, request.num_tokens, request.dim, device="cuda", dtype=torch.bfloat16).requires_grad_()
        head = nn.Linear(request.dim, request.num_rows, bias=False, device="cuda", dtype=torch.bfloat16)
        ids = torch.empty(1, request.num_tokens, device="cuda", dtype=torch.int64)
        try:
            with HeadCounter(request.num_tokens):  # compiles, which dispatches operators that no run starts
                head_of(hidden, head, ids).backward()
            hidden.grad = head.weight.grad = None
            recorder.running = counter.graph
            with counter:
                head_of(hidden, head, ids).backward()
        except Exception as caught:  # the finding
            error = f"{type(caught).__name__}: {str(caught)[:500]}"
    kernels = recorder.kernels[first:]
    return HeadCount(
        name=name,
        num_launches=counter.num_launches,
        num_products=counter.num_products,
        moved_bytes=counter.moved_bytes,
        peak_bytes=counter.peak_bytes,
        num_host_syncs=counter.num_host_syncs,
        max_registers=max((kernel.registers for kernel in kernels), default=0),
        max_spilled_bytes=max((kernel.spilled_bytes for kernel in kernels), default=0),
        error=error or next((kernel.error for kernel in kernels if kernel.error), ""),
    )


@contextlib.contextmanager
def _triton_kernels_counted(recorder: Any, counter: Any, shared_limit: int) -> Iterator[None]:
    """While open, a Triton kernel that is called from Python is compiled and counted in place of being started."""
    import torch
    from triton.runtime.jit import JITFunction, MockTensor

    from benchmarks.deviceless.kernels import Kernel, describe

    plain = JITFunction.run
    seen: set[int] = set()

    def stand_in(value: Any) -> Any:
        return MockTensor(value.dtype) if isinstance(value, torch.Tensor) else value

    def run(function: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        words = {name: stand_in(value) for name, value in kwargs.items()}
        binary = plain(function, *map(stand_in, args), grid=grid, warmup=True, **words)
        if id(binary) not in seen:
            seen.add(id(binary))
            recorder.kernels.append(kernel := Kernel(function.__name__))
            describe(kernel, binary, shared_limit)
        logits = kwargs.get("X_ptr")  # Liger's kernel leaves the gradient in place of the logits
        counter.kernel(iter((*args, *kwargs.values())), logits.nbytes if logits is not None else 0)
        return binary

    JITFunction.run = run  # type: ignore[method-assign]
    try:
        yield
    finally:
        JITFunction.run = plain  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
