"""A sound run with its GPUs and nodes as series of Prometheus, and for each alert the fault that must fire it.

Values are in promtool's notation, one per minute: `0x30 1x60` is 0 for half an hour, then 1; `0+10x90` rises by ten.
"""

from __future__ import annotations

MINUTES = 90
ASKED_AT = "85m"
"""When a fault that began after half an hour, or at minute 75 where it is a jump, must be known."""

RANKS = range(4)
GPU = 'gpu="0",UUID="GPU-1",device="nvidia0",modelName="H100",Hostname="node-0",instance="node-0:9400",job="dcgm"'
DISK = 'device="/dev/sda",fstype="ext4",mountpoint="/",instance="node-0:9100",job="node"'
NODE = 'instance="node-0:9100",job="node"'


def of_rank(name: str, rank: int, more: str = "") -> str:
    return f'titan_speech_{name}{{run="demo",rank="{rank}"{more}}}'


def of_run(name: str) -> str:
    return f'titan_speech_{name}{{run="demo"}}'


def seconds(name: str, rank: int) -> str:
    return of_rank("seconds_total", rank, f',class="{name}"')


def up(job: str, port: int) -> str:
    return f'up{{job="{job}",instance="node-0:{port}"}}'


SOUND = {
    **{up(job, port): "1x90" for job, port in (("titan_speech", 9464), ("dcgm", 9400), ("node", 9100))},
    **{of_rank("step", rank): "0+10x90" for rank in RANKS},
    **{of_rank("ledger_age_seconds", rank): "0.2x90" for rank in RANKS},
    **{seconds("step", rank): "0+54x90" for rank in RANKS},
    **{seconds("data_wait", rank): "0+1x90" for rank in RANKS},
    **{seconds("collective_wait", rank): "0+5x90" for rank in RANKS},
    **{of_run(name): "0x90" for name in ("flagged", "skipped_steps", "loss_spikes", "num_alloc_retries")},
    of_run("upload_failures"): "0x90",
    of_run("upload_oldest_age_seconds"): "10x90",
    of_run("loss"): "11-0.05x90",
    of_run("data_wait_fraction"): "0.02x90",
    f"DCGM_FI_DEV_XID_ERRORS{{{GPU}}}": "0x90",
    f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{GPU}}}": "0x90",
    f"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{GPU}}}": "0x90",
    f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}}": "65x90",
    f"DCGM_FI_DEV_GPU_UTIL{{{GPU}}}": "99x90",
    f"node_filesystem_avail_bytes{{{DISK}}}": "500x90",
    f"node_filesystem_size_bytes{{{DISK}}}": "1000x90",
    f"node_memory_MemAvailable_bytes{{{NODE}}}": "500x90",
    f"node_memory_MemTotal_bytes{{{NODE}}}": "1000x90",
}

FAULTS: dict[str, dict[str, str]] = {
    "RunFlagged": {of_run("flagged"): "0x30 1x60"},
    "RunEndpointDown": {up("titan_speech", 9464): "1x30 0x60"},
    "RankSilent": {of_rank("ledger_age_seconds", 1): "0.2x30 0+60x60"},
    "RunStuck": {of_rank("step", rank): "0+10x30 300x60" for rank in RANKS},
    "LossNotFinite": {of_run("loss"): "11x30 " + "NaN " * 60},
    "StepsSkipped": {of_run("skipped_steps"): "0x30 0+1x60"},
    "LossSpike": {of_run("loss_spikes"): "0x75 1x15"},
    "WaitingForData": {of_run("data_wait_fraction"): "0.02x30 0.4x60"},
    "LowGoodput": {seconds("step", rank): "0+2x90" for rank in RANKS},
    "Straggler": {seconds("step", 3): "0+75x90"},
    "MemoryNearlyFull": {of_run("num_alloc_retries"): "0x75 1x15"},
    "UploadsLate": {of_run("upload_oldest_age_seconds"): "10x30 3700x60"},
    "UploadsFail": {of_run("upload_failures"): "0x75 2x15"},
    "GpuError": {f"DCGM_FI_DEV_XID_ERRORS{{{GPU}}}": "0x30 79x60"},
    "GpuMemoryFailing": {f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{GPU}}}": "0x30 1x60"},
    "GpuHot": {f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}}": "65x30 91x60"},
    "GpuIdle": {f"DCGM_FI_DEV_GPU_UTIL{{{GPU}}}": "99x30 0x60"},
    "NodeDown": {up("node", 9100): "1x30 0x60"},
    "DiskNearlyFull": {f"node_filesystem_avail_bytes{{{DISK}}}": "500x30 20x60"},
    "HostMemoryNearlyFull": {f"node_memory_MemAvailable_bytes{{{NODE}}}": "500x30 20x60"},
}
