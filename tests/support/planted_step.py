"""A compiled step with one defect in it, named by PLANTED: what the deviceless proof must catch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torchtitan.models.common.feed_forward import FeedForward

from benchmarks.deviceless import child, kernels

plain_forward = FeedForward.forward


def with_item(self: FeedForward, x_BLD: torch.Tensor) -> torch.Tensor:
    """An integer: torch turns `.item()` of a float back into a tensor, which then costs nothing."""
    return plain_forward(self, x_BLD * x_BLD.sum().long().item())


def with_branch(self: FeedForward, x_BLD: torch.Tensor) -> torch.Tensor:
    return plain_forward(self, x_BLD if x_BLD.sum() > 0 else -x_BLD)


def with_complex(self: FeedForward, x_BLD: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x_BLD.float().unflatten(-1, (-1, 2)))
    return plain_forward(self, torch.view_as_real(pairs * 1j).flatten(-2).to(x_BLD.dtype))


PLANTS = {"item": with_item, "branch": with_branch, "complex": with_complex}


def plant_changing_shape() -> None:
    """Halve the packs from the second step on; the step's module comes after the pretended GPU."""
    record = kernels.record_compilations

    def record_and_plant(limit: int) -> Any:
        recorder = record(limit)
        from benchmarks.deviceless.cuda_step import CudaStep

        compute = CudaStep.compute

        def shorter(self: CudaStep, parts: Any) -> None:
            if self.recorder.step > 1:
                self.tree.training.seq_len //= 2
            compute(self, parts)

        CudaStep.compute = shorter  # type: ignore[method-assign]
        return recorder

    kernels.record_compilations = record_and_plant


if __name__ == "__main__":
    if os.environ["PLANTED"] == "shape":
        plant_changing_shape()
    else:
        FeedForward.forward = PLANTS[os.environ["PLANTED"]]  # type: ignore[method-assign]
    child.main(Path(sys.argv[1]), Path(sys.argv[2]))
