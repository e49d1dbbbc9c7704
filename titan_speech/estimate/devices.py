"""What the predictions assume, as named data with their sources; nothing here was measured by this project.

In: nothing. Out: devices, and the assumptions that turn FLOPs and bytes into seconds. Change a number here and every
prediction follows; each page of the plan prints those it used.

A configuration as a machine without CUDA can build it.

In: a configuration. Out: the same without what asks for CUDA or for weights of another place, and what that was. It
needs no torch, whose import is a third of the time of a plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from titan_speech.config.schema import SpeechConfig


@dataclass(frozen=True)
class Device:
    """One accelerator in the machine it is usually rented in. Rates are dense, per second, one direction."""

    name: str
    title: str
    memory_bytes: float
    bf16_flops: float
    fp8_flops: float | None
    """None: no float8 matrix products."""
    local_bytes: float
    """To the other devices of a node, per device."""
    nic_bytes: float
    """To other nodes, per device."""
    devices_per_node: int
    source: str


_CPU = Device("cpu", "CPU", 0.0, 0.0, None, 0.0, 0.0, 1, "memory only: dense attention, no time is predicted")

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            "a100",
            "A100 SXM 80 GB",
            *(80e9, 312e12, None, 300e9, 25e9, 8),
            "NVIDIA A100 datasheet: 312 TFLOP/s bf16, NVLink 600 GB/s both ways; DGX A100: eight 200 Gb/s ConnectX-6",
        ),
        Device(
            "h100",
            "H100 SXM 80 GB",
            *(80e9, 989e12, 1979e12, 450e9, 50e9, 8),
            "NVIDIA H100 datasheet: 1,979 TFLOP/s bf16 and 3,958 fp8 with sparsity, half of it dense, NVLink 900 GB/s "
            "both ways; DGX H100 user guide: eight 400 Gb/s ConnectX-7",
        ),
        Device(
            "h200",
            "H200 SXM 141 GB",
            *(141e9, 989e12, 1979e12, 450e9, 50e9, 8),
            "NVIDIA H200 datasheet: peaks and NVLink of the H100; DGX H200 user guide: eight 400 Gb/s ConnectX-7",
        ),
        Device(
            "b200",
            "B200 SXM 180 GB",
            *(180e9, 2250e12, 4500e12, 900e9, 50e9, 8),
            "NVIDIA HGX B200: 4.5 PFLOP/s bf16 and 9 fp8 with sparsity, half of it dense, NVLink 1.8 TB/s both ways; "
            "DGX B200 user guide: 1,440 GB on 8 GPUs, eight 400 Gb/s ConnectX-7",
        ),
        Device(
            "l40s",
            "L40S 48 GB",
            *(48e9, 362e12, 733e12, 32e9, 12.5e9, 8),
            "NVIDIA L40S datasheet: 733 TFLOP/s bf16 and 1,466 fp8 with sparsity, half of it dense, PCIe 4.0 x16 "
            "64 GB/s both ways; machines differ: 8 GPUs with 100 Gb/s each are assumed",
        ),
        _CPU,
    )
}
"""Checked against the named publications; datasheets give both directions of a link, rates here are of one."""


@dataclass(frozen=True)
class Assumptions:
    """What is not known before a run; the values are of `ASSUMED`, the sources beside them."""

    efficiency: float
    """Part of the dense bf16 peak that compiled layers reach while they compute, recomputation counted as work.
    Fitted to the pretraining rows of the reference table, 0.42 and 0.40, taken to be without recomputation."""

    eager_factor: float
    """Speed without torch.compile. TorchTitan benchmarks/llama3_h100_202412_torchtitan.md, table 1, Llama 3.1 8B on 8
    H100 (limited to 500 W, selective recomputation): 5,762 of 6,667 tokens/s/GPU."""

    float8_factor: float
    """Speed with float8 layers, if they are compiled. The same table: 8,532 of 6,667 tokens/s/GPU."""

    overlap: float
    """Part of FSDP and DDP communication that can hide behind computing; assumed."""

    tensor_parallel_overlap: float
    """The same for tensor, context and pipeline communication, which computing waits for; assumed."""

    async_tensor_parallel_overlap: float
    """The same with compile.enable_async_tensor_parallel; assumed."""

    bus_efficiency: float
    """Part of a link's rate that large collectives reach; assumed, 0.8 is usual for nccl-tests on such machines."""

    outside_bytes: float
    """Memory that no tensor holds: CUDA context, NCCL buffers, workspaces; assumed."""

    fragmentation: float
    """Memory the caching allocator reserves beyond what tensors hold, as a part of it; assumed."""


DEFAULT_ASSUMPTIONS = Assumptions(
    efficiency=0.415,
    eager_factor=5762 / 6667,
    float8_factor=8532 / 6667,
    overlap=0.9,
    tensor_parallel_overlap=0.0,
    async_tensor_parallel_overlap=0.7,
    bus_efficiency=0.8,
    outside_bytes=3e9,
    fragmentation=0.05,
)


@dataclass(frozen=True)
class Reference:
    """A published run on 32 H100 at context 2,048, 8 packs a GPU."""

    name: str
    family: str
    flavor: str
    num_parameters: float
    stage: str
    strategy: str
    tokens_per_sec_per_gpu: float
    mfu: float


REFERENCES = (
    Reference("TTS-1", "llama3", "1B", 1.370e9, "pretraining", "DDP, compiled", 46_000, 0.42),
    Reference("TTS-1", "llama3", "1B", 1.370e9, "SFT", "DDP, padded, not compiled", 18_000, 0.16),
    Reference("TTS-1-Max", "llama3", "8B", 8.568e9, "pretraining", "FSDP, compiled", 8_000, 0.40),
    Reference("TTS-1-Max", "llama3", "8B", 8.568e9, "SFT", "ZeRO-2, padded, not compiled", 4_800, 0.24),
)
REFERENCE_SOURCE = "TTS-1 technical report, arXiv 2507.21138; MFU derived from it at 989 TFLOP/s"


def on_this_machine(config: SpeechConfig) -> tuple[SpeechConfig, list[str]]:
    """The configuration without what asks for CUDA or for weights of another place, and what was left out."""
    kind = config.activation_checkpoint.kind
    switched_on = {
        "compilation": config.compile.enable,
        "CUDA graphs": config.training.cuda_graphs,
        "float8": config.float8.recipe != "none",
        "the compiler's own recomputation (selective instead)": kind == "memory_budget",
    }
    changed = replace(
        config,
        compile=replace(config.compile, enable=False, enable_async_tensor_parallel=False),
        float8=replace(config.float8, recipe="none", emulate=False),
        parallelism=replace(config.parallelism, context_parallel_load_balancer="headtail"),
        activation_checkpoint=replace(
            config.activation_checkpoint, kind="selective" if kind == "memory_budget" else kind
        ),
        training=replace(config.training, cuda_graphs=False),
        model=replace(config.model, attention="dense", initial=""),
        checkpoint=replace(config.checkpoint, enable=False, initial_load_path="", create_seed_checkpoint=False),
    )
    return changed, [name for name, is_on in switched_on.items() if is_on]
