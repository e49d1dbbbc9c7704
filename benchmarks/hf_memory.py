"""Memory and time of extending and of exporting a backbone, with files of its real size and random weights.

    python benchmarks/hf_memory.py --verb expand --flavor 8B --work DIR --json outputs/hf_memory_expand.json
    python benchmarks/hf_memory.py --verb export --flavor 8B --work DIR --json outputs/hf_memory_export.json

In: a command, a flavor and a folder with free space (8B: 34 GB to expand, 52 GB to export). To expand, a backbone's
folder in bfloat16 is written tensor by tensor; to export, a checkpoint with float32 weights, as one process saves it.
Out: the highest resident memory of the command's process (VmHWM, mapped files included), its time, and the largest
tensor to compare with. DIR is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp

from benchmarks.machine import memory_bytes, write_results
from titan_speech.checkpoint.verify import write_marker
from titan_speech.config.resolved import save_resolved
from titan_speech.estimate.offline import PUBLISHED_ROWS
from titan_speech.hf.config_json import config_from_shape, write_json
from titan_speech.hf.model_folder import tensor_shapes
from titan_speech.hf.safetensors_writer import write_weights
from titan_speech.model.attention import attention_config
from titan_speech.model.backbones import BackboneShape, published_shape
from titan_speech.model.spec import decoder_config
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.text_tokenizer import TextTokenizer

FAMILIES = {"8B": "llama3", "1B": "llama3", "1.7B": "qwen3", "0.6B": "qwen3"}
TOKENIZER = Path("tokenizer/tiny/tokenizer.json")
WEIGHT_STD = 0.02
ROWS_PER_PIECE = 4096


@dataclass(frozen=True)
class Measured:
    """One command, in a process of its own."""

    verb: str
    peak_gb: float
    """VmHWM."""
    largest_tensor_gb: float
    """The largest tensor it reads or writes, in the type it has there."""
    read_gb: float
    written_gb: float
    time_sec: float


def write_backbone(folder: Path, shape: BackboneShape, num_base: int) -> None:
    """config.json, shards of random bfloat16 weights, a tokenizer with fewer entries than rows."""
    folder.mkdir(parents=True)
    shapes = tensor_shapes(shape, num_base)
    generator = torch.Generator().manual_seed(0)

    def pieces(name: str) -> Iterator[torch.Tensor]:
        rows, *width = shapes[name]
        for start in range(0, rows, ROWS_PER_PIECE):
            piece = torch.randn(min(ROWS_PER_PIECE, rows - start), *width, generator=generator)
            yield piece * WEIGHT_STD

    write_weights(folder, shapes, torch.bfloat16, pieces)
    config = config_from_shape(shape, num_base, bos_id=0, eos_id=1, pad_id=1)
    write_json(folder / "config.json", config | {"dtype": "bfloat16"})
    write_tokenizer(folder, num_base)


def write_checkpoint(run: Path, shape: BackboneShape, flavor: str, tokenizer: Path) -> None:
    """A run folder whose step 1 has float32 weights, saved by one process; tensors share one random buffer."""
    words = ["--job.config_file", "tests/assets/small.toml", "--job.dump_folder", str(run)]
    words += ["--model.family", shape.family, "--model.flavor", flavor, "--tokenizer.path", str(tokenizer)]
    run.mkdir(parents=True)
    save_resolved(load_config(words), run)
    num_rows = TextTokenizer.load(tokenizer).vocabulary().num_rows
    with torch.device("meta"):
        model = decoder_config(shape, num_rows, attention_config("dense")).build()
    meta = model.state_dict()
    largest = max(value.numel() for value in meta.values()) + len(meta)
    buffer = np.random.default_rng(0).standard_normal(largest, np.float32) * np.float32(WEIGHT_STD)
    state = {  # each a storage of its own: DCP copies what is only a part of one, and keeps the copies
        name: torch.from_numpy(buffer[start : start + value.numel()]).view(value.shape)
        for start, (name, value) in enumerate(meta.items())
    }
    dcp.save(state, checkpoint_id=str(run / "checkpoint" / "step-1"), no_dist=True)
    write_marker(run / "checkpoint" / "step-1")


def write_tokenizer(folder: Path, num_base: int) -> None:
    """The bundled one, which has fewer entries than the backbone has rows."""
    shutil.copy(TOKENIZER, folder)
    write_json(folder / "recipe.json", {"bos_token_id": 0, "eos_token_id": 1, "num_base": num_base})


def measure(*words: str) -> tuple[float, float]:
    """Highest resident memory in GB and time of one `titan-speech` command."""
    began, peak_bytes = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "titan_speech", *words])
    while process.poll() is None:
        peak_bytes = memory_bytes("VmHWM", process.pid) or peak_bytes
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"titan-speech {' '.join(words)} ended with {process.returncode}")
    return peak_bytes / 1e9, time.perf_counter() - began


def folder_gb(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9


def largest_gb(shape: BackboneShape, num_rows: int, dtype: torch.dtype) -> float:
    return num_rows * shape.dim * dtype.itemsize / 1e9


def measure_expand(work: Path, shape: BackboneShape) -> Measured:
    base, extended = work / "base", work / "extended"
    write_backbone(base, shape, PUBLISHED_ROWS[shape.family])
    print(f"backbone of {folder_gb(base):.1f} GB written", flush=True)
    peak_gb, time_sec = measure("model", "expand", "--from", str(base), "--output", str(extended))
    num_rows = json.loads((extended / "config.json").read_text())["vocab_size"]
    return Measured(
        "expand", peak_gb, largest_gb(shape, num_rows, torch.bfloat16), folder_gb(base), folder_gb(extended), time_sec
    )


def measure_export(work: Path, shape: BackboneShape, flavor: str, dtype: str) -> Measured:
    run, exported = work / "run", work / "exported"
    (work / "tokenizer").mkdir()
    write_tokenizer(work / "tokenizer", PUBLISHED_ROWS[shape.family])
    write_checkpoint(run, shape, flavor, work / "tokenizer")
    print(f"checkpoint of {folder_gb(run):.1f} GB written", flush=True)
    peak_gb, time_sec = measure(
        *("model", "export", "--checkpoint", str(run), "--output", str(exported), "--dtype", dtype)
    )
    num_rows = json.loads((exported / "config.json").read_text())["vocab_size"]
    return Measured(
        f"export --dtype {dtype}",
        peak_gb,
        largest_gb(shape, num_rows, torch.float32),
        folder_gb(run),
        folder_gb(exported),
        time_sec,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verb", choices=("expand", "export"), required=True)
    parser.add_argument("--flavor", choices=FAMILIES, default="8B")
    parser.add_argument("--work", type=Path, required=True, help="folder to write in; made, and removed at the end")
    parser.add_argument("--dtype", default="bfloat16", help="type of the exported weights")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    shape = published_shape(FAMILIES[arguments.flavor], arguments.flavor)
    arguments.work.mkdir(parents=True)
    try:
        if arguments.verb == "expand":
            measured = measure_expand(arguments.work, shape)
        else:
            measured = measure_export(arguments.work, shape, arguments.flavor, arguments.dtype)
    finally:
        shutil.rmtree(arguments.work)
    figures = {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(measured).items()}
    report = {"flavor": arguments.flavor, "torch": torch.__version__, "threads": torch.get_num_threads(), **figures}
    print(report)
    write_results(arguments.json, report)


if __name__ == "__main__":
    main()
