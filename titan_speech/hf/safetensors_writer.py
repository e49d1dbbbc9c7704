"""A model folder written as its tensors are made: whole, or not there.

In: names and shapes of all tensors, and for each the rows of it, piece by piece. Out: safetensors with their index, in
a folder that appears when everything in it is on disk.

The layout of safetensors is a length, a JSON header and the bytes, so the header can be written before a single tensor
exists: what is in memory is one piece (8,192 rows of an embedding), never a model. The library's own writer takes
whole files of tensors at once, 5 GB at the usual shard size.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from titan_speech.errors import ModelError
from titan_speech.hf.model_folder import DTYPES
from titan_speech.model.exported_files import INDEX_NAME, SINGLE_NAME, shard_name

MAX_SHARD_BYTES = 4 << 30
Shapes = Mapping[str, tuple[int, ...]]
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@contextlib.contextmanager
def new_folder(path: Path, num_bytes: int) -> Iterator[Path]:
    """A folder to write to, renamed to `path` when the block ends well and removed otherwise.

    Raises:
        ModelError: `path` is taken, cannot be written, or has not `num_bytes` of room.
    """
    if path.exists():
        raise ModelError(f"{path} exists already; give another folder or delete it")
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < num_bytes:
            raise ModelError(f"{path} needs {num_bytes / 1e9:.1f} GB and there are {free / 1e9:.1f} GB; make room")
        yield partial
        os.rename(partial, path)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # what is in them is not ours
            for folder in made:
                folder.rmdir()


def write_weights(
    folder: Path,
    shapes: Shapes,
    dtype: torch.dtype,
    pieces: Callable[[str], Iterator[torch.Tensor]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write every tensor; `pieces(name)` gives its rows in order."""
    shards = _shards(shapes, dtype, max_shard_bytes)
    names = [SINGLE_NAME] if len(shards) == 1 else [shard_name(i + 1, len(shards)) for i in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        _write_shard(folder / file, {name: shapes[name] for name in shard}, dtype, pieces)
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": num_weight_bytes(shapes, dtype)}, "weight_map": weight_map}
        write_json(folder / INDEX_NAME, index)


def num_weight_bytes(shapes: Shapes, dtype: torch.dtype) -> int:
    return sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _shards(shapes: Shapes, dtype: torch.dtype, max_bytes: int) -> list[list[str]]:
    """Tensors in order, cut where a file would become too large; a tensor is never cut."""
    shards: list[list[str]] = [[]]
    room = max_bytes
    for name, shape in shapes.items():
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= num_bytes
    return shards


def _write_shard(
    file: Path, shapes: Shapes, dtype: torch.dtype, pieces: Callable[[str], Iterator[torch.Tensor]]
) -> None:
    with open(file, "wb", buffering=0) as out:
        out.write(_header(shapes, dtype))
        for name, shape in shapes.items():
            written = sum(_write_piece(out.fileno(), piece.to(dtype)) for piece in pieces(name))
            expected = math.prod(shape) * dtype.itemsize
            if written != expected:
                raise ModelError(f"{name} came to {written} bytes, expected {expected} for its shape {shape}")
        os.fsync(out.fileno())


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    """Length and JSON, padded so that the data begins at a multiple of 8."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape) * dtype.itemsize
        content[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_piece(file_number: int, piece: torch.Tensor) -> int:
    data, written = tensor_bytes(piece), 0
    while written < len(data):
        written += os.write(file_number, data[written : written + (1 << 30)])
    return written


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, in the order safetensors has them."""
    return tensor.contiguous().view(torch.uint8).numpy().data.cast("B")
