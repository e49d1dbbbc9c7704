"""Names and shapes of the tensors of a Hugging Face checkpoint.

In: the shape of a backbone. Out: what its safetensors must hold. Stated here from the architecture, not read from a
file, so that a file can be checked against it.

config.json of a Hugging Face folder, as the shape of a backbone and back.

In: the parsed JSON, or a `BackboneShape`. Out: the other. Only what changes a logit is read, and whatever of it this
trainer does not compute (biases, sliding windows, other activations) is refused by name: a model that loads must give
the logits it gave there.

Weights of a Hugging Face folder, read one tensor or some rows at a time.

In: a folder with config.json and safetensors, single or sharded with an index. Out: names, shapes and types of all
tensors from the headers alone, and any rows of any tensor. Files are mapped, so what is read is what is in memory.

A folder that opens is whole: every tensor of the architecture is there with the shape config.json gives it, and each
file is as long as its header says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from titan_speech.errors import ModelError
from titan_speech.model.backbones import BackboneShape, Family, RopeScaling
from titan_speech.model.exported_files import CONFIG_NAME, INDEX_NAME, SINGLE_NAME
from titan_speech.utils.safe_path import UnsafePathError, relative_path

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tensor_shapes(shape: BackboneShape, num_rows: int) -> dict[str, tuple[int, ...]]:
    """Every tensor by name, embedding first, layer by layer, head last."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (num_rows, shape.dim)}
    for layer in range(shape.num_layers):
        shapes |= {f"model.layers.{layer}.{name}": size for name, size in _layer_shapes(shape).items()}
    shapes["model.norm.weight"] = (shape.dim,)
    if not shape.is_tied:
        shapes[HEAD] = (num_rows, shape.dim)
    return shapes


def vocabulary_tensors(shape: BackboneShape) -> tuple[str, ...]:
    """Tensors with one row a token."""
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


ARCHITECTURES: dict[str, Family] = {"LlamaForCausalLM": "llama3", "Qwen3ForCausalLM": "qwen3"}
MODEL_TYPES: dict[Family, str] = {"llama3": "llama", "qwen3": "qwen3"}
_MUST_BE = {
    **{"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "use_sliding_window": False},
    "quantization_config": None,
}
_REQUIRED = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "rms_norm_eps",
    "max_position_embeddings",
)
_OPTIONAL = ("num_key_value_heads", "head_dim")
_OF_LLAMA_ROPE = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_FRACTIONS = ("rms_norm_eps", "rope_theta", "factor", "low_freq_factor", "high_freq_factor")


def shape_from_config(content: Mapping[str, Any], file: Path) -> BackboneShape:
    """Sizes of the backbone a config.json describes.

    Raises:
        ModelError: an architecture or a feature this trainer does not have, or a missing key; all named together.
    """
    problems = _problems(content)
    if problems:
        raise ModelError(f"{file} describes a model that cannot be trained here: " + "; ".join(problems))
    rope = _rope_parameters(content)
    num_heads = content["num_attention_heads"]
    return BackboneShape(
        family=ARCHITECTURES[str(_architecture(content))],
        num_layers=content["num_hidden_layers"],
        dim=content["hidden_size"],
        num_heads=num_heads,
        num_kv_heads=content.get("num_key_value_heads") or num_heads,
        head_dim=content.get("head_dim") or content["hidden_size"] // num_heads,
        hidden_dim=content["intermediate_size"],
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=_scaling(rope),
        norm_eps=content["rms_norm_eps"],
        is_tied=bool(content.get("tie_word_embeddings", False)),
        max_positions=content["max_position_embeddings"],
    )


def config_from_shape(shape: BackboneShape, num_rows: int, *, bos_id: int, eos_id: int, pad_id: int) -> dict[str, Any]:
    """config.json of a model of this shape with `num_rows` vocabulary rows, in float32."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rope_theta}
    if shape.rope_scaling is not None:
        scaling = shape.rope_scaling
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    architecture = next(name for name, family in ARCHITECTURES.items() if family == shape.family)
    return {
        "architectures": [architecture],
        "model_type": MODEL_TYPES[shape.family],
        "vocab_size": num_rows,
        "hidden_size": shape.dim,
        "intermediate_size": shape.hidden_dim,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_eps,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,  # read by releases before rope_parameters
        "rope_scaling": None if shape.rope_scaling is None else rope,
        "rope_parameters": rope,
        "tie_word_embeddings": shape.is_tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "dtype": "float32",
    } | ({"mlp_bias": False} if shape.family == "llama3" else {"use_sliding_window": False})


def _problems(content: Mapping[str, Any]) -> list[str]:
    architecture = _architecture(content)
    if str(architecture) not in ARCHITECTURES:
        found = "architectures is missing" if architecture is None else f"architecture {architecture!r}"
        return [f"{found}, expected one of {', '.join(ARCHITECTURES)}"]
    problems = [_no_number(content, key) for key in _REQUIRED]
    problems += [_no_number(content, key) for key in _OPTIONAL if content.get(key) is not None]
    problems += [
        f"{key} is {content[key]!r}, expected {expected!r}"
        for key, expected in _MUST_BE.items()
        if content.get(key, expected) != expected
    ]
    if not isinstance(content.get("tie_word_embeddings", False), bool):
        problems.append(f"tie_word_embeddings is {content['tie_word_embeddings']!r}, expected true or false")
    problems = [problem for problem in (*problems, *_rope_problems(content, architecture)) if problem]
    if not problems and content["num_attention_heads"] % (content.get("num_key_value_heads") or 1):
        problems.append(
            f"num_attention_heads is {content['num_attention_heads']}, no multiple of num_key_value_heads, "
            f"{content['num_key_value_heads']}"
        )
    return problems


def _architecture(content: Mapping[str, Any]) -> object:
    """The first of the list; None where there is none."""
    names = content.get("architectures")
    return names[0] if isinstance(names, list) and names else names or None


def _no_number(content: Mapping[str, Any], key: str, of: str = "") -> str:
    """What is wrong with a size, or nothing."""
    if key not in content:
        return f"{key}{of} is missing"
    value, may_be_fraction = content[key], key in _FRACTIONS
    if isinstance(value, bool) or not isinstance(value, int | float if may_be_fraction else int) or value <= 0:
        return f"{key}{of} is {value!r}, expected a {'number' if may_be_fraction else 'whole number'} above 0"
    return ""


def _rope_problems(content: Mapping[str, Any], architecture: object) -> list[str]:
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(content.get(key) or {}, dict):
            return [f"{key} is {content[key]!r}, expected an object or null"]
    rope = _rope_parameters(content)
    problems = [_no_number(rope, "rope_theta")]
    if rope["rope_type"] not in ("default", "llama3"):
        problems.append(f"rope_type is {rope['rope_type']!r}, expected 'default' or 'llama3'")
    if rope["rope_type"] == "llama3" and architecture != "LlamaForCausalLM":
        problems.append("rope_type 'llama3' in a model that is no Llama")
    if rope["rope_type"] == "llama3":
        problems += [_no_number(rope, key, " of the rope") for key in _OF_LLAMA_ROPE]
    return problems


def _rope_parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    """Either `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before it)."""
    rope = dict(content.get("rope_parameters") or content.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    if "rope_theta" in content:
        rope.setdefault("rope_theta", content["rope_theta"])
    return rope


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    if rope["rope_type"] == "default":
        return None
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_positions=rope["original_max_position_embeddings"],
    )


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
