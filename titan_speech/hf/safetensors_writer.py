"""Write a model folder while its tensors are made: the whole folder, or none.

In: names and shapes of all tensors, and for each its rows, piece by piece. Out: safetensors with their index, in a
folder that appears when everything in it is on disk.

The format of safetensors is a length, a JSON header and the bytes, so the header can be written before a single tensor
exists: in memory is one piece (8,192 rows of an embedding), never a model. huggingface_hub's `save_torch_state_dict`
takes tensors that all exist, and writes files of 5 GB from memory: docs/design.md says why it is not used.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from titan_speech.errors import ModelError
from titan_speech.hf.config_json import write_json
from titan_speech.hf.model_folder import DTYPES
from titan_speech.model.exported_files import INDEX_NAME, SINGLE_NAME, shard_name
from titan_speech.utils.files import sync_folder

MAX_SHARD_BYTES = 4 << 30
MAX_WRITE_BYTES = 1 << 30
"""Per call: Linux writes at most 2 GB at once."""
Shapes = Mapping[str, tuple[int, ...]]
Pieces = Callable[[str], Iterator[torch.Tensor]]
"""Gives the rows of a tensor in order, from its name."""
_CODES = {dtype: code for code, dtype in DTYPES.items()}


@contextlib.contextmanager
def new_folder(path: Path, num_bytes: int) -> Iterator[Path]:
    """Make a folder to write to, which is renamed to `path` when the block ends, and removed if it raises.

    A writer that is killed leaves its folder; the next one of the same `path` removes it.

    Args:
        path: must not exist.
        num_bytes: what will be written, about.

    Raises:
        ModelError: `path` exists, cannot be written, or its disk has fewer free bytes than `num_bytes`.
    """
    if path.exists():
        raise ModelError(f"{path} exists already; give another folder or delete it")
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    created_parents = [folder for folder in path.absolute().parents if not folder.exists()]
    lock = None
    try:
        for left_over in path.parent.glob(f"{glob.escape(path.name)}.partial-*"):
            _remove_unless_written(left_over)
        partial.mkdir(parents=True)
        lock = _locked(partial)
        free = shutil.disk_usage(partial).free
        if free < num_bytes:
            raise ModelError(
                f"{path} needs {num_bytes / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free; delete files"
            )
        yield partial
        os.rename(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error}; nothing was left behind") from error
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for folder in created_parents:
                folder.rmdir()


def _locked(folder: Path) -> int | None:
    """The folder, opened and locked until it is closed; None where another process has it or nothing can be locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_unless_written(left_over: Path) -> None:
    """Remove what a writer left that was killed; one that lives has it locked."""
    with contextlib.suppress(OSError):  # no folder, or removed meanwhile
        lock = _locked(left_over)
        if lock is not None:
            shutil.rmtree(left_over, ignore_errors=True)
            os.close(lock)


def write_weights(
    folder: Path, shapes: Shapes, dtype: torch.dtype, pieces: Pieces, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write every tensor to one file, or to several with an index.

    Args:
        folder: where files are written.
        shapes: of all tensors by name, in their order.
        dtype: pieces are converted to it.
        pieces: gives the rows of a tensor.
        max_shard_bytes: a file is larger only if a single tensor is.

    Raises:
        ModelError: the rows of a tensor have another size than its shape.
    """
    shards = _split_into_shards(shapes, dtype, max_shard_bytes)
    count = len(shards)
    names = [SINGLE_NAME] if count == 1 else [shard_name(number, count) for number in range(1, count + 1)]
    for file, shard in zip(names, shards, strict=True):
        _write_shard(folder / file, {name: shapes[name] for name in shard}, dtype, pieces)
    if count > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": num_weight_bytes(shapes, dtype)}, "weight_map": weight_map}
        write_json(folder / INDEX_NAME, index)


def num_weight_bytes(shapes: Shapes, dtype: torch.dtype) -> int:
    return sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize


def _split_into_shards(shapes: Shapes, dtype: torch.dtype, max_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file, in order; a tensor is never split."""
    shards: list[list[str]] = [[]]
    num_free = max_bytes
    for name, shape in shapes.items():
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes > num_free and shards[-1]:
            shards.append([])
            num_free = max_bytes
        shards[-1].append(name)
        num_free -= num_bytes
    return shards


def _write_shard(file: Path, shapes: Shapes, dtype: torch.dtype, pieces: Pieces) -> None:
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
        written += os.write(file_number, data[written : written + MAX_WRITE_BYTES])
    return written


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, in the order safetensors stores them."""
    return tensor.contiguous().view(torch.uint8).numpy().data.cast("B")
