"""TorchTitan on a machine without an accelerator; none of this is imported on CUDA.

In: a process in which `torch.cuda.is_available()` is false. Out: TorchTitan's device handle reports the CPU, block
masks are built eagerly (compiling them in every process is not worth it at these sizes), and gloo reduces by plain
sums. Trade-off: module globals of TorchTitan are replaced, in this file only, so that no other file needs a branch. The
7 M debug model trains at about 1,290 tokens/s on two cores.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.protocols.module import Module


class CpuDeviceModule:
    """`torch.cpu` with the functions that TorchTitan calls on an accelerator module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_device_name(self, device: object = None) -> str:
        return "cpu"

    def get_device_properties(self, device: object = None) -> SimpleNamespace:
        return SimpleNamespace(total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    def memory_stats(self, device: object = None) -> dict[str, int]:
        """Peak resident memory of the process instead of allocator peaks; it cannot be reset."""
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"active_bytes.all.peak": peak_bytes, "reserved_bytes.all.peak": peak_bytes}

    def reset_peak_memory_stats(self, device: object = None) -> None:
        return None

    def empty_cache(self) -> None:
        return None


def prepare() -> None:
    """Make TorchTitan use the CPU, in all its modules imported so far. May be called again."""
    import torch.distributed.tensor.experimental._context_parallel._attention as context_parallel
    import torchtitan.models.common.attention as attention
    import torchtitan.tools.utils as utils
    from torch.nn.attention.flex_attention import create_block_mask

    replacements = {"device_type": "cpu", "device_module": CpuDeviceModule()}
    for name, module in list(sys.modules.items()):
        if name.startswith("torchtitan"):
            for attribute in replacements.keys() & vars(module).keys():
                setattr(module, attribute, replacements[attribute])
    utils.get_peak_flops = lambda device_name: float("nan")  # an unknown device must not report an A100's MFU
    attention._compiled_create_block_mask = create_block_mask
    context_parallel._compiled_create_block_mask = create_block_mask
    _barrier_without_device_ids()
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks.

    Logits are allocated and freed in every chunk; getting zeroed pages from the kernel each time took 40 % of the CPU
    time of the loss at 256 tokens per chunk and V = 69,760.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library: slower, still correct
        return
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def _barrier_without_device_ids() -> None:
    """gloo's barrier takes no device ids; TorchTitan always names one."""
    plain_barrier: Callable[..., Any] = getattr(
        torch.distributed.barrier, "without_device_ids", torch.distributed.barrier
    )

    def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Any:
        return plain_barrier(group=group, async_op=async_op)

    barrier.without_device_ids = plain_barrier  # type: ignore[attr-defined]
    torch.distributed.barrier = barrier


def use_plain_sum_reduction(parallelize: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Wrap a parallelize function so that FSDP reduces by plain sums: gloo has no PREMUL_SUM."""
    from torch.distributed.fsdp import FSDPModule

    def parallelize_with_plain_sums(model: nn.Module, **kwargs: Any) -> nn.Module:
        model = parallelize(model, **kwargs)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
        return model

    return parallelize_with_plain_sums


def initialize_identically(model: Module.Config) -> None:
    """Make every parallel layout initialize the same weights from the same seed.

    On CUDA, DTensor's generator does that; on a CPU each shard would be initialized on its own. Here every rank
    initializes the full parameter and keeps its shard, so that one configuration gives one loss curve at any number of
    processes.
    """
    for _, config, _, _ in model.traverse(Module.Config, recurse=True):
        if config.param_init is not None:
            config.param_init = {name: _initialize_full(init) for name, init in config.param_init.items()}


def initialize_adapters_identically(parallelize: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Wrap a parallelize function likewise for LoRA adapters, which TorchTitan makes when it builds the model."""

    def parallelize_with_adapters(model: nn.Module, **kwargs: Any) -> nn.Module:
        for name, module in model.named_modules():
            if name.endswith((".lora_a", ".lora_b")) and isinstance(module, Module) and module._param_init is not None:
                module._param_init = {key: _initialize_full(init) for key, init in module._param_init.items()}
        return parallelize(model, **kwargs)

    return parallelize_with_adapters


def _initialize_full(init: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], None]:
    if init is skip_param_init:
        return init

    def initialize(parameter: torch.Tensor) -> None:
        if not isinstance(parameter, DTensor):
            init(parameter)
            return
        full = torch.empty(parameter.shape, dtype=parameter.dtype)
        init(full)
        mesh = parameter.device_mesh
        parameter.copy_(DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False))

    return initialize
