"""A Hugging Face model folder: which tensors it must hold, and reading them one tensor or some rows at a time.

In: a folder with config.json and safetensors, single or sharded with an index. Out: names, shapes and types of all
tensors from the headers alone, and any rows of any tensor. Files are memory-mapped, so only what is read is in memory.

A folder that opens is complete: every tensor of the architecture is there with the shape config.json gives it, and each
file is as long as its header says. Expected names and shapes are stated here from the architecture and not read from a
file, so that a file can be checked against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from titan_speech.errors import ModelError
from titan_speech.hf.config_json import describe_folder, read_json, shape_from_config
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.exported_files import CONFIG_NAME, INDEX_NAME, SINGLE_NAME
from titan_speech.utils.safe_path import UnsafePathError, relative_path

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DERIVED = ".rotary_emb.inv_freq"
"""Ending of a tensor that follows from the configuration; old exporters wrote it."""
MAX_NAMED = 5
MAX_HEADER_BYTES = 16 << 20
"""Longest header of a file of safetensors: some 100,000 tensors. Parsing 99 MB of dimensions takes 2 GB of memory."""


def tensor_shapes(shape: BackboneShape, num_rows: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name: the embedding, the layers in order, the head."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (num_rows, shape.dim)}
    for layer in range(shape.num_layers):
        shapes |= {f"model.layers.{layer}.{name}": size for name, size in _layer_shapes(shape).items()}
    shapes["model.norm.weight"] = (shape.dim,)
    if not shape.is_tied:
        shapes[HEAD] = (num_rows, shape.dim)
    return shapes


def vocabulary_tensors(shape: BackboneShape) -> tuple[str, ...]:
    """Names of the tensors with one row per token of the vocabulary."""
    return (EMBEDDING,) if shape.is_tied else (EMBEDDING, HEAD)


def _layer_shapes(shape: BackboneShape) -> dict[str, tuple[int, ...]]:
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (shape.dim,),
        "self_attn.q_proj.weight": (queries, shape.dim),
        "self_attn.k_proj.weight": (keys, shape.dim),
        "self_attn.v_proj.weight": (keys, shape.dim),
        "self_attn.o_proj.weight": (shape.dim, queries),
        "post_attention_layernorm.weight": (shape.dim,),
        "mlp.gate_proj.weight": (shape.hidden_dim, shape.dim),
        "mlp.up_proj.weight": (shape.hidden_dim, shape.dim),
        "mlp.down_proj.weight": (shape.dim, shape.hidden_dim),
    }
    if shape.has_qk_norm:
        shapes |= {f"self_attn.{name}.weight": (shape.head_dim,) for name in ("q_norm", "k_norm")}
    return shapes


@dataclass(frozen=True)
class HFFolder:
    """A folder whose configuration and headers were read and checked."""

    path: Path
    config: dict[str, Any]
    shape: BackboneShape
    num_rows: int
    """Vocabulary rows."""
    files: dict[str, Path]
    """File of each tensor, in the order of the architecture."""
    dtype: torch.dtype

    @classmethod
    def open(cls, path: Path) -> HFFolder:
        """Read configuration and headers, no weights.

        Raises:
            ModelError: no such folder, missing weights or shards, a tensor of another shape or type than expected.
        """
        config = read_json(path / CONFIG_NAME, "a Hugging Face model folder")
        shape = shape_from_config(config, path / CONFIG_NAME)
        num_rows = config["vocab_size"]
        files = {name: file for name, file in _file_of_tensor(path).items() if not name.endswith(DERIVED)}
        if shape.is_tied:
            files.pop(HEAD, None)  # some exporters write the tied matrix twice
        dtype = _check_tensors(path, files, tensor_shapes(shape, num_rows))
        return cls(path, config, shape, num_rows, files, dtype)

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor, in the type it is stored in."""
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a matrix, in the type it is stored in."""
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_slice(name)[start:stop]


def _file_of_tensor(path: Path) -> dict[str, Path]:
    """File of each tensor."""
    if (path / INDEX_NAME).is_file():
        weight_map = _weight_map(path / INDEX_NAME)
        missing = sorted({name for name in weight_map.values() if not (path / name).is_file()})
        if missing:
            rest = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
            raise ModelError(
                f"{path}: {INDEX_NAME} names {len(set(weight_map.values()))} files, of which are missing: "
                f"{', '.join(missing[:MAX_NAMED])}{rest}; download them again"
            )
        return {name: path / file for name, file in weight_map.items()}
    if not (path / SINGLE_NAME).is_file():
        raise ModelError(
            f"{path} has no weights: expected {SINGLE_NAME} or {INDEX_NAME} with its shards{describe_folder(path)}; "
            "convert other formats (.bin, .pth) to safetensors first"
        )
    with _open_file(path / SINGLE_NAME) as file:
        return dict.fromkeys(file.keys(), path / SINGLE_NAME)


def _weight_map(index: Path) -> dict[str, str]:
    """File name of each tensor."""
    found = read_json(index, "a model folder").get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        shown = repr(found)
        raise ModelError(
            f"{index}: weight_map is {shown if len(shown) < 80 else shown[:80] + '...'}, expected an object that gives "
            "the file of each tensor; download it again"
        )
    for name in set(found.values()):
        try:
            relative_path(name)
        except UnsafePathError as error:
            raise ModelError(f"{index}: {error}; find out who made this folder before you use it") from error
    return found


def _open_file(file: Path) -> Any:
    try:
        with open(file, "rb") as opened:
            num_bytes = int.from_bytes(opened.read(8), "little")
        if num_bytes > MAX_HEADER_BYTES:
            raise SafetensorError(f"its header announces {num_bytes:,} bytes, expected at most {MAX_HEADER_BYTES:,}")
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or cut short ({error}); download it again") from error


def _check_tensors(path: Path, files: dict[str, Path], expected: dict[str, tuple[int, ...]]) -> torch.dtype:
    """The one type of all tensors; raises unless names and shapes are those of the architecture."""
    problems = [f"{name} is missing" for name in expected if name not in files]
    problems += [f"{name} is not a tensor of this architecture" for name in files if name not in expected]
    found: dict[str, str] = {}
    for file in sorted(set(files.values())):
        with _open_file(file) as opened:
            here = set(opened.keys()) & expected.keys()
            for name in sorted(name for name in here if files.get(name) == file):
                piece = opened.get_slice(name)
                found[name] = piece.get_dtype()
                if tuple(piece.get_shape()) != expected[name]:
                    problems.append(f"{name} has shape {piece.get_shape()}, config.json asks for {expected[name]}")
    problems += [
        f"{name} is not in {file.name}, where {INDEX_NAME} places it"
        for name, file in files.items()
        if name in expected and name not in found
    ]
    problems += [
        f"{name} is of type {kind}, expected F32, BF16 or F16" for name, kind in found.items() if kind not in DTYPES
    ]
    if len(set(found.values())) > 1 and not problems:
        problems.append(f"tensors are of several types: {', '.join(sorted(set(found.values())))}")
    if problems:
        rest = f"\n  and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise ModelError(f"{path} does not fit its config.json:\n  " + "\n  ".join(problems[:MAX_NAMED]) + rest)
    return DTYPES[next(iter(found.values()))]
