"""Devices and assumptions of the predictions, as named data with their sources; nothing here was measured here.

In: nothing. Out: devices, the assumptions that turn FLOPs and bytes into seconds, and published runs. Change a number
here and every prediction follows; each page prints the assumptions it used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator in the machine it is usually rented in. Rates are dense, per second, in one direction."""

    name: str
    title: str
    memory_bytes: float
    """0: not known."""
    bf16_flops: float
    """FLOP/s; 0: no time is predicted."""
    fp8_flops: float | None
    """FLOP/s; None: no float8 matrix products."""
    memory_bytes_per_sec: float
    """Bandwidth of the device's memory."""
    local_bytes: float
    """Bytes per second to the other devices of a node, per device."""
    nic_bytes: float
    """Bytes per second to other nodes, per device."""
    devices_per_node: int
    source: str


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="a100",
            title="A100 SXM 80 GB",
            memory_bytes=80e9,
            bf16_flops=312e12,
            fp8_flops=None,
            memory_bytes_per_sec=2.039e12,
            local_bytes=300e9,
            nic_bytes=25e9,
            devices_per_node=8,
            source="NVIDIA A100 datasheet: 312 TFLOP/s bf16, NVLink 600 GB/s both ways; DGX A100: eight 200 Gb/s "
            "ConnectX-6; 2,039 GB/s of memory",
        ),
        Device(
            name="h100",
            title="H100 SXM 80 GB",
            memory_bytes=80e9,
            bf16_flops=989e12,
            fp8_flops=1979e12,
            memory_bytes_per_sec=3.35e12,
            local_bytes=450e9,
            nic_bytes=50e9,
            devices_per_node=8,
            source="NVIDIA H100 datasheet: 1,979 TFLOP/s bf16 and 3,958 fp8 with sparsity, half of it dense, NVLink "
            "900 GB/s both ways, 3.35 TB/s of memory; DGX H100 user guide: eight 400 Gb/s ConnectX-7",
        ),
        Device(
            name="h200",
            title="H200 SXM 141 GB",
            memory_bytes=141e9,
            bf16_flops=989e12,
            fp8_flops=1979e12,
            memory_bytes_per_sec=4.8e12,
            local_bytes=450e9,
            nic_bytes=50e9,
            devices_per_node=8,
            source="NVIDIA H200 datasheet: peaks and NVLink of the H100, 4.8 TB/s of memory; DGX H200 user guide: "
            "eight 400 Gb/s ConnectX-7",
        ),
        Device(
            name="b200",
            title="B200 SXM 180 GB",
            memory_bytes=180e9,
            bf16_flops=2250e12,
            fp8_flops=4500e12,
            memory_bytes_per_sec=8e12,
            local_bytes=900e9,
            nic_bytes=50e9,
            devices_per_node=8,
            source="NVIDIA HGX B200: 4.5 PFLOP/s bf16 and 9 fp8 with sparsity, half of it dense, NVLink 1.8 TB/s both "
            "ways; DGX B200 user guide: 1,440 GB on 8 GPUs with 8 TB/s each, eight 400 Gb/s ConnectX-7",
        ),
        Device(
            name="l40s",
            title="L40S 48 GB",
            memory_bytes=48e9,
            bf16_flops=362e12,
            fp8_flops=733e12,
            memory_bytes_per_sec=864e9,
            local_bytes=32e9,
            nic_bytes=12.5e9,
            devices_per_node=8,
            source="NVIDIA L40S datasheet: 733 TFLOP/s bf16 and 1,466 fp8 with sparsity, half of it dense, PCIe 4.0 "
            "x16 64 GB/s both ways, 864 GB/s of memory; machines differ: 8 GPUs with 100 Gb/s each are assumed",
        ),
        Device(
            name="cpu",
            title="CPU",
            memory_bytes=0.0,
            bf16_flops=0.0,
            fp8_flops=None,
            memory_bytes_per_sec=0.0,
            local_bytes=0.0,
            nic_bytes=0.0,
            devices_per_node=1,
            source="memory only: dense attention, no time is predicted",
        ),
    )
}
"""Checked against the named publications; datasheets give both directions of a link, rates here are of one."""


@dataclass(frozen=True)
class Assumptions:
    """What is not known before a run; `DEFAULT_ASSUMPTIONS` has the values, the fields say where they come from."""

    efficiency: float
    """Part of the dense bf16 peak that compiled layers reach while they compute, recomputation counted as work.
    Fitted to the pretraining rows of the reference table, 0.42 and 0.40, taken to be without recomputation."""

    eager_factor: float
    """Speed without torch.compile. TorchTitan benchmarks/llama3_h100_202412_torchtitan.md, table 1, Llama 3.1 8B on 8
    H100 (limited to 500 W, selective recomputation): 5,762 of 6,667 tokens/s/GPU."""

    float8_factor: float
    """Speed with float8 layers, if they are compiled. The same table: 8,532 of 6,667 tokens/s/GPU."""

    overlap: float
    """Part of FSDP and DDP communication that can overlap with computing; assumed."""

    tensor_parallel_overlap: float
    """The same for tensor, context and pipeline communication, which computing waits for; assumed."""

    async_tensor_parallel_overlap: float
    """The same with compile.enable_async_tensor_parallel; assumed."""

    bus_efficiency: float
    """Part of a link's rate that large collectives reach; assumed, 0.8 is usual for nccl-tests on such machines."""

    outside_bytes: float
    """Memory outside of tensors: CUDA context, NCCL buffers, workspaces; assumed."""

    fragmentation: float
    """Memory the caching allocator reserves beyond what tensors hold, as a part of it; assumed."""

    def needed_bytes(self, tensor_bytes: float) -> float:
        """Memory of a GPU whose tensors hold so much."""
        return tensor_bytes * (1 + self.fragmentation) + self.outside_bytes


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
class PublishedRun:
    """A published run on 32 H100 at context 2,048, 8 sequences per GPU."""

    name: str
    family: str
    flavor: str
    num_parameters: float
    stage: str
    strategy: str
    tokens_per_sec_per_gpu: float
    mfu: float


PUBLISHED_RUNS = (
    PublishedRun("TTS-1", "llama3", "1B", 1.370e9, "pretraining", "DDP, compiled", 46_000, 0.42),
    PublishedRun("TTS-1", "llama3", "1B", 1.370e9, "SFT", "DDP, padded, not compiled", 18_000, 0.16),
    PublishedRun("TTS-1-Max", "llama3", "8B", 8.568e9, "pretraining", "FSDP, compiled", 8_000, 0.40),
    PublishedRun("TTS-1-Max", "llama3", "8B", 8.568e9, "SFT", "ZeRO-2, padded, not compiled", 4_800, 0.24),
)
REFERENCE_SOURCE = "TTS-1 technical report, arXiv 2507.21138; MFU derived from it at 989 TFLOP/s"
