"""Weights of a Hugging Face folder, read one tensor or some rows at a time.

In: a folder with config.json and safetensors, single or sharded with an index. Out: names, shapes and types of all
tensors from the headers alone, and any rows of any tensor. Files are mapped, so what is read is what is in memory.

A folder that opens is whole: every tensor of the architecture is there with the shape config.json gives it, and each
file is as long as its header says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from titan_speech.errors import ModelError
from titan_speech.hf.config import shape_from_config
from titan_speech.hf.tensors import HEAD, tensor_shapes
from titan_speech.model.shape import BackboneShape
from titan_speech.utils.safe_path import UnsafePathError, relative_path

INDEX_NAME, SINGLE_NAME, CONFIG_NAME = "model.safetensors.index.json", "model.safetensors", "config.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DERIVED = ".rotary_emb.inv_freq"  # follows from the configuration; old exporters wrote it
MAX_NAMED = 5


@dataclass(frozen=True)
class HFFolder:
    """An opened folder."""

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
        """Reads configuration and headers.

        Raises:
            ModelError: no such folder, missing weights or shards, a tensor of another shape or type than expected.
        """
        config = read_json(path / CONFIG_NAME, "a Hugging Face model folder")
        shape = shape_from_config(config, path / CONFIG_NAME)
        num_rows = config["vocab_size"]
        files = {name: file for name, file in _files(path).items() if not name.endswith(DERIVED)}
        if shape.is_tied:
            files.pop(HEAD, None)  # some exporters write the tied matrix twice
        dtype = _checked(path, files, tensor_shapes(shape, num_rows))
        return cls(path, config, shape, num_rows, files, dtype)

    def tensor(self, name: str) -> torch.Tensor:
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a matrix."""
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_slice(name)[start:stop]


def read_json(file: Path, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the file is absent or holds something else.
    """
    if not file.is_file():
        raise ModelError(f"{file.parent} is not {what}: {file.name} is missing{_nearby(file.parent)}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, expected a JSON object")
    return content


def _nearby(folder: Path) -> str:
    if not folder.is_dir():
        return " (there is no such folder)"
    names = sorted(path.name for path in folder.iterdir())[:8]
    return f" (it has {', '.join(names) or 'nothing'})"


def _files(path: Path) -> dict[str, Path]:
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
            f"{path} has no weights: expected {SINGLE_NAME} or {INDEX_NAME} with its shards{_nearby(path)}; "
            "other formats (.bin, .pth) are to be converted to safetensors first"
        )
    with _opened(path / SINGLE_NAME) as file:
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


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or cut short ({error}); download it again") from error


def _checked(path: Path, files: dict[str, Path], expected: dict[str, tuple[int, ...]]) -> torch.dtype:
    """The one type of all tensors, once names and shapes are those of the architecture."""
    problems = [f"{name} is missing" for name in expected if name not in files]
    problems += [f"{name} is no tensor of this architecture" for name in files if name not in expected]
    found: dict[str, str] = {}
    for file in sorted(set(files.values())):
        with _opened(file) as opened:
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
