"""Tell torch and Triton that this process has one GPU of an architecture; imported before anything asks.

In: the architecture. Out: nothing; functions of torch.cuda, of autograd's checks and Triton's driver are replaced for
the rest of this process, which must do nothing but trace and compile. Tensors are fake; a kernel that were started
would fail. The process needs the environment of stubs.py.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Architecture:
    """What compilers ask of a GPU, from NVIDIA's CUDA C++ programming guide, table of compute capabilities."""

    name: str
    title: str
    capability: tuple[int, int]
    num_processors: int
    shared_bytes: int
    """A block may ask for so much."""
    memory_bytes: int


ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture("sm_90", "NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 85_000_000_000),
        Architecture("sm_100", "NVIDIA B200", (10, 0), 148, 232_448, 190_000_000_000),
    )
}


class _Properties:
    """torch.cuda's properties of a device."""

    regs_per_multiprocessor, max_threads_per_multi_processor, max_threads_per_block = 65_536, 2048, 1024
    warp_size, shared_memory_per_block, L2_cache_size = 32, 49_152, 50 * 2**20
    gcnArchName, uuid, is_integrated, is_multi_gpu_board = "", "fake", 0, 0
    clock_rate, memory_clock_rate, memory_bus_width = 1_980_000, 2_619_000, 5_120

    def __init__(self, architecture: Architecture) -> None:
        self.name, (self.major, self.minor) = architecture.title, architecture.capability
        self.multi_processor_count, self.total_memory = architecture.num_processors, architecture.memory_bytes
        self.shared_memory_per_block_optin = architecture.shared_bytes
        self.shared_memory_per_multiprocessor = architecture.shared_bytes + 1024


class _Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    wait = synchronize = record

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 1.0


class _Stream:
    cuda_stream = stream_id = device_index = priority = 0
    device_type = 1
    device = torch.device("cuda", 0)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or _Event()

    def _nothing(self, *args: Any) -> None:
        pass

    wait_stream = wait_event = synchronize = __exit__ = _nothing

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def __enter__(self) -> _Stream:
        return self


def pretend(architecture: Architecture) -> None:
    """Replace what torch and Triton ask a driver.

    Raises:
        RuntimeError: the process was not started with the environment of stubs.py.
    """
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing, since the driver is a stub
    try:
        ctypes.CDLL(None).nogpu_set(127)  # the guard that does nothing has many devices
    except AttributeError as error:
        raise RuntimeError("this process lacks the environment of benchmarks/deviceless/stubs.py") from error
    _torch(architecture)
    _triton(architecture)
    _dynamo()
    torch.autograd.set_multithreading_enabled(False)


def _always(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


def _torch(architecture: Architecture) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    FakeTensorMode.avoid_device_init = property(_always(True))  # type: ignore[assignment]
    properties, stream = _Properties(architecture), _Stream()
    values: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "get_device_properties": properties,
        "get_device_capability": architecture.capability,
        "get_device_name": architecture.title,
        "get_arch_list": [architecture.name],
        "mem_get_info": (architecture.memory_bytes, architecture.memory_bytes),
        "memory_stats": {},
        "current_stream": stream,
        "default_stream": stream,
    }
    for name in ("_lazy_init", "init", "set_device", "synchronize", "set_stream", "empty_cache", "manual_seed"):
        values[name] = None
    for name in ("manual_seed_all", "reset_peak_memory_stats", "set_rng_state"):
        values[name] = None
    for name, value in values.items():
        setattr(torch.cuda, name, _always(value))
    torch.cuda.stream = lambda stream: contextlib.nullcontext()  # type: ignore[assignment]
    torch.cuda.get_rng_state = lambda *args: torch.get_rng_state()  # type: ignore[assignment]
    torch.cuda.Stream, torch.cuda.Event = _Stream, _Event  # type: ignore[misc, assignment]
    native: Any = torch._C
    native._cuda_getCurrentRawStream = native._cuda_getDevice = _always(0)
    native._cuda_hasPrimaryContext = _always(True)
    of_accelerator = {"is_available": True, "device_count": 1, "current_device_index": 0, "synchronize": None}
    for name, value in of_accelerator.items():
        setattr(torch.accelerator, name, _always(value))
    torch.accelerator.current_accelerator = _always(torch.device("cuda"))
    torch.accelerator.current_stream = _always(stream)
    torch.Tensor.record_stream = _always(None)  # type: ignore[method-assign]


def _triton(architecture: Architecture) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    major, minor = architecture.capability

    class Utilities:
        @staticmethod
        def get_device_properties(device: int) -> dict[str, int]:
            return {
                "max_shared_mem": architecture.shared_bytes,
                "multiprocessor_count": architecture.num_processors,
                "warpSize": 32,
                "max_num_regs": 65_536,
                "sm_clock_rate": 1_980_000,
                "mem_clock_rate": 2_619_000,
                "mem_bus_width": 5_120,
            }

        @staticmethod
        def load_binary(*args: Any) -> tuple[int, ...]:
            return (0, 0, 0, 0, 1024)

    class Driver:
        utils = Utilities

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 10 * major + minor, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cuda", 0)

        def get_device_interface(self) -> Any:
            return torch.cuda

        def get_benchmarker(self) -> Any:
            return lambda call, **kwargs: [1.0, 1.0, 1.0]

    for name, value in {"is_active": True, "get_current_device": 0, "set_current_device": None}.items():
        setattr(Driver, name, staticmethod(_always(value)))
    Driver.get_current_stream = staticmethod(_always(0))  # type: ignore[attr-defined]
    Driver.map_python_to_cpp_type = staticmethod(_always("int"))  # type: ignore[attr-defined]
    standing_in: Any = Driver()
    driver.set_active(standing_in)


def _dynamo() -> None:
    """Dynamo copied functions of torch.cuda when it was imported."""
    from torch._dynamo.device_interface import CudaInterface

    interface: Any = CudaInterface
    copied = ("current_device", "set_device", "device_count", "stream", "current_stream", "set_stream", "synchronize")
    for name in (*copied, "get_device_properties", "memory_allocated", "is_bf16_supported"):
        setattr(interface, name, staticmethod(getattr(torch.cuda, name)))
    interface.exchange_device = interface.maybe_exchange_device = staticmethod(_always(0))
    interface.get_raw_stream = staticmethod(_always(0))
    interface.Event, interface.Stream = _Event, _Stream
