"""Keep every graph that Inductor lowers and every kernel that Triton makes of it, and run the graphs on fake tensors.

In: `torch.compile` in a process that pretends to have a GPU. Out: `graphs` and `kernels`, as records that findings.py
judges. A graph is lowered and its kernels are compiled to machine code by the compiler's own code; then the graph that
was lowered runs on the fake tensors in place of the code that was made. Each configuration of a kernel is compiled, so
that none of those that a GPU would choose from is left out; none is timed.
"""

from __future__ import annotations

import copy
import logging
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Kernel:
    """One configuration of one Triton kernel, compiled."""

    name: str
    shared_bytes: int = 0
    registers: int = 0
    spilled_bytes: int = 0
    num_warps: int = 0
    num_stages: int = 0
    tensor_core_instructions: int = 0
    error: str = ""


@dataclass
class Graph:
    """One graph that was lowered."""

    step: int
    region: str
    """`layer`, `loss`, ..., of the step that ran when it was compiled."""
    direction: str
    num_operators: int
    num_kernels: int = 0
    """Configurations of kernels that were compiled: autotuning chooses among several of each."""
    num_launches: int = 0
    """Kernels that are started when the graph runs, matrix products of a library among them."""
    extern: dict[str, int] = field(default_factory=dict)
    """Calls that are not kernels of this compiler: matrix products of a library, and operators that it left alone."""
    moved_bytes: int = 0
    """That its kernels and calls read and write, by Inductor's own count."""
    elementwise_bytes: int = 0
    """The part of them that is neither of matrix products nor of attention."""
    complex_operators: int = 0
    host_syncs: int = 0
    """Values that Python reads from the device."""


class Recorder:
    """What was compiled in this process; `step` and `region` are set by who runs the steps."""

    def __init__(self) -> None:
        self.graphs: list[Graph] = []
        self.kernels: list[Kernel] = []
        self.step, self.region = 1, "other"
        self.elementwise_bytes = 0
        """Of the graph that is being lowered."""
        self.running: Callable[[Graph, list[Any]], AbstractContextManager[Any]] = no_tracking
        """Entered around each run of a graph with a list that gets its results."""

    def to_json(self) -> dict[str, Any]:
        return {
            "graphs": [asdict(graph) for graph in self.graphs],
            "kernels": [asdict(kernel) for kernel in self.kernels],
        }


def no_tracking(graph: Graph, results: list[Any]) -> AbstractContextManager[Any]:
    """What is entered around a graph that nobody counts."""
    return nullcontext()


_EXTERN = re.compile(r"extern_kernels\.(\w+)\(|(torch\.ops\.[\w.]+)\(|(aten\.[\w.]+)\(")
_LAUNCH = re.compile(r"^ *triton_\w+\.run\(", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


def record_compilations(shared_limit: int) -> Recorder:
    """Begin to record; for the rest of the process.

    Args:
        shared_limit: bytes of shared memory that a block may have.
    """
    import torch._inductor.config as settings
    from torch._inductor import compile_fx
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime import triton_helpers
    from torch._inductor.runtime import triton_heuristics as heuristics

    recorder = Recorder()
    settings.joint_graph_constant_folding = False  # computes constants on the device
    settings.compile_threads = 1
    settings.fx_graph_cache = False
    compile_fx.inductor_metrics_log.setLevel(logging.INFO)  # counts bytes
    compile_fx.inductor_metrics_log.propagate = False
    triton_helpers.set_driver_to_gpu = lambda: None  # would build Triton's own driver
    made: list[Any] = []
    plain_compile = heuristics.triton.compile

    def compile_and_keep(*args: Any, **kwargs: Any) -> Any:
        made[:] = [plain_compile(*args, **kwargs)]
        return made[0]

    def precompile(self: Any, warm_cache_only: bool = False, reload_kernel: Any = None, **kwargs: Any) -> None:
        if self.fn.fn is None and reload_kernel is not None:
            self.fn = reload_kernel().fn
        for configuration in self.configs:
            recorder.kernels.append(kernel := Kernel(self.inductor_meta.get("kernel_name", self.fn.__name__)))
            made.clear()
            try:
                self._precompile_config(configuration)
                describe(kernel, made[0], shared_limit)
            except Exception as error:  # whatever a compiler raises is the finding
                kernel.error = f"{type(error).__name__}: {str(error)[:300]}"

    count_bytes = GraphLowering.count_bytes

    def count_by_kind(lowering: Any) -> Any:
        nodes = [node for node in lowering.scheduler.nodes if not (node.is_extern() or node.is_template())]
        recorder.elementwise_bytes += sum(node.get_read_write_buffers_sizes() for node in nodes)
        return count_bytes(lowering)

    GraphLowering.count_bytes = count_by_kind  # type: ignore[method-assign]
    heuristics.triton.compile = compile_and_keep
    heuristics.CachingAutotuner.precompile = precompile
    heuristics.StaticTritonCompileResult.can_statically_launch = staticmethod(lambda *args, **kwargs: None)
    torch._TorchCompileInductorWrapper.__call__ = (  # type: ignore[method-assign]
        lambda self, module, inputs: _lowered(recorder, module, inputs, self.config)
    )
    return recorder


def _lowered(recorder: Recorder, module: Any, inputs: Any, config: dict[str, Any]) -> Any:
    from torch._inductor import compile_fx, metrics

    def inner(graph_module: Any, example_inputs: Any, **kwargs: Any) -> Any:
        kept = torch.fx.GraphModule(graph_module, copy.deepcopy(graph_module.graph))  # its attributes may be fake
        calls = [node for node in graph_module.graph.nodes if node.op == "call_function"]
        graph = Graph(
            step=recorder.step,
            region=recorder.region,
            direction="backward" if kwargs.get("is_backward") else "forward",
            num_operators=len(calls),
            complex_operators=sum(_is_complex(node) for node in calls),
            host_syncs=sum(node.target is torch.ops.aten._local_scalar_dense.default for node in calls),
        )
        recorder.graphs.append(graph)
        before, bytes_before = len(recorder.kernels), metrics.num_bytes_accessed
        recorder.elementwise_bytes = 0
        compiled = compile_fx.compile_fx_inner(graph_module, example_inputs, **kwargs)
        graph.num_kernels = len(recorder.kernels) - before
        source = getattr(compiled, "source_code", "") or ""
        found = ("".join(match).rpartition("torch.ops.")[2] for match in _EXTERN.findall(source))
        graph.extern = dict(Counter(found))
        graph.num_launches = len(_LAUNCH.findall(source)) + sum(
            times for name, times in graph.extern.items() if "wait_tensor" not in name
        )
        graph.moved_bytes = metrics.num_bytes_accessed - bytes_before
        graph.elementwise_bytes = recorder.elementwise_bytes

        def run(arguments: list[Any]) -> Any:
            taken = list(arguments)
            arguments.clear()
            results: list[Any] = []
            with recorder.running(graph, results):
                result = kept(*taken)
                results.extend(result if isinstance(result, (list, tuple)) else (result,))
            return results

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    return compile_fx.compile_fx(module, inputs, inner_compile=inner, config_patches=config)


def _is_complex(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype.is_complex


def describe(kernel: Kernel, binary: Any, shared_limit: int) -> None:
    metadata, assembly = binary.metadata, binary.asm["ptx"]
    kernel.shared_bytes, kernel.num_warps, kernel.num_stages = metadata.shared, metadata.num_warps, metadata.num_stages
    kernel.tensor_core_instructions = sum(
        assembly.count(name) for name in ("wgmma.mma_async", "mma.sync", "tcgen05.mma")
    )
    if usage := _usage(binary.asm["cubin"]):
        kernel.registers, _, _, kernel.spilled_bytes = usage
    if metadata.shared > shared_limit:
        kernel.error = f"asks for {metadata.shared:,} bytes of shared memory, of at most {shared_limit:,}"


def _usage(machine_code: bytes) -> tuple[int, ...]:
    """Registers, stack, static shared and local bytes of a kernel."""
    import triton

    reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        done = subprocess.run([reader, "-res-usage", file.name], capture_output=True, text=True, check=False)
    found = _USAGE.search(done.stdout + done.stderr)
    return tuple(map(int, found.groups())) if found else ()
