"""JSON files of a Hugging Face folder; above all config.json, as the shape of a backbone and back.

In: the parsed config.json, or a `BackboneShape`; or the [model] settings. Out: the other; or the shape they ask for.
Only what changes a logit is read, and whatever of it this trainer does not compute (biases, sliding windows, other
activations) is refused by name: a model that loads must give the logits it gave there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_speech.config.schema import SpeechConfig
from titan_speech.config.schema_training import INITIAL_FLAVOR, ModelConfig
from titan_speech.errors import ModelError
from titan_speech.model.backbones import BackboneShape, Family, RopeScaling, published_shape
from titan_speech.model.exported_files import CONFIG_NAME
from titan_speech.utils.files import write_atomically
from titan_speech.utils.json_text import read_json_file

if TYPE_CHECKING:
    from titan_speech.checkpoint.provenance import Provenance


def read_json(file: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        file: the file.
        what: what its folder is expected to be, for the message if the file is missing.

    Raises:
        ModelError: the file is missing, is not JSON, or holds something else than an object.
    """
    if not file.is_file():
        raise ModelError(f"{file.parent} is not {what}: {file.name} is missing{describe_folder(file.parent)}")
    try:
        content = read_json_file(file)
    except ValueError as error:
        raise ModelError(f"{file} is not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, expected a JSON object")
    return content


def describe_folder(folder: Path) -> str:
    """What a folder holds, in brackets, to follow a message that something is missing in it."""
    if not folder.is_dir():
        return " (there is no such folder)"
    names = sorted(path.name for path in folder.iterdir())[:8]
    return f" (it has {', '.join(names) or 'nothing'})"


def write_json(file: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


ARCHITECTURES: dict[str, Family] = {"LlamaForCausalLM": "llama3", "Qwen3ForCausalLM": "qwen3"}
MODEL_TYPES: dict[Family, str] = {"llama3": "llama", "qwen3": "qwen3"}
_EXPECTED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}
"""Values this trainer computes with; an absent key has that value."""
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
_LLAMA_ROPE_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_MOST_LAYERS, _LARGEST_SIZE = 1024, 1 << 24
"""Above these, building the model would take all memory before its weights are found to be others."""
_FRACTIONAL = ("rms_norm_eps", "rope_theta", "factor", "low_freq_factor", "high_freq_factor")


def shape_from_config(content: Mapping[str, Any], file: Path) -> BackboneShape:
    """Sizes of the backbone that a config.json describes.

    Args:
        content: the parsed file.
        file: where it was read from, for messages.

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
    problems = [_number_problem(content, key) for key in _REQUIRED]
    problems += [_number_problem(content, key) for key in _OPTIONAL if content.get(key) is not None]
    problems += [
        f"{key} is {content[key]!r}, expected {expected!r}"
        for key, expected in _EXPECTED.items()
        if content.get(key, expected) != expected
    ]
    if not isinstance(content.get("tie_word_embeddings", False), bool):
        problems.append(f"tie_word_embeddings is {content['tie_word_embeddings']!r}, expected true or false")
    problems = [problem for problem in (*problems, *_rope_problems(content, architecture)) if problem]
    if not problems and content["num_attention_heads"] % (content.get("num_key_value_heads") or 1):
        problems.append(
            f"num_attention_heads is {content['num_attention_heads']}, not a multiple of num_key_value_heads, "
            f"{content['num_key_value_heads']}"
        )
    return problems


def _architecture(content: Mapping[str, Any]) -> object:
    """The first of the list; None if it is missing."""
    names = content.get("architectures")
    return names[0] if isinstance(names, list) and names else names or None


def _number_problem(content: Mapping[str, Any], key: str, of: str = "") -> str:
    """What is wrong with a size; empty if it is a positive number. `of` follows the key in the text."""
    if key not in content:
        return f"{key}{of} is missing"
    value, may_be_fraction = content[key], key in _FRACTIONAL
    if isinstance(value, bool) or not isinstance(value, int | float if may_be_fraction else int) or value <= 0:
        return f"{key}{of} is {value!r}, expected a {'number' if may_be_fraction else 'whole number'} above 0"
    most = _MOST_LAYERS if key == "num_hidden_layers" else _LARGEST_SIZE
    return f"{key}{of} is {value!r}, expected at most {most}" if value > most and not may_be_fraction else ""


def _rope_problems(content: Mapping[str, Any], architecture: object) -> list[str]:
    for key in ("rope_parameters", "rope_scaling"):
        if not isinstance(content.get(key) or {}, dict):
            return [f"{key} is {content[key]!r}, expected an object or null"]
    rope = _rope_parameters(content)
    problems = [_number_problem(rope, "rope_theta")]
    if rope["rope_type"] not in ("default", "llama3"):
        problems.append(f"rope_type is {rope['rope_type']!r}, expected 'default' or 'llama3'")
    if rope["rope_type"] == "llama3" and architecture != "LlamaForCausalLM":
        problems.append("rope_type 'llama3' in a model that is not a Llama")
    if rope["rope_type"] == "llama3":
        problems += [_number_problem(rope, key, " of the rope") for key in _LLAMA_ROPE_KEYS]
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


def model_shape(config: ModelConfig) -> BackboneShape:
    """Sizes that the [model] settings ask for.

    Raises:
        ConfigError: the family has no such flavor.
        ModelError: model.initial has other sizes than the flavor, or is not a model folder.
    """
    if not config.initial:
        return published_shape(config.family, config.flavor)
    file = Path(config.initial) / CONFIG_NAME
    found = shape_from_config(read_json(file, "a Hugging Face model folder (model.initial)"), file)
    if config.flavor == INITIAL_FLAVOR:
        differences = [] if found.family == config.family else [f"family {found.family} against {config.family}"]
    else:
        differences = found.differences(published_shape(config.family, config.flavor))
    if differences:
        raise ModelError(
            f"model.initial = {config.initial!r} is not the {config.family} {config.flavor} that [model] asks for: "
            f'{"; ".join(differences)}. Set model.flavor = "{INITIAL_FLAVOR}" to take the sizes of the folder, or '
            "correct model.family and model.flavor"
        )
    return found


def model_of_stage(config: SpeechConfig) -> ModelConfig:
    """The [model] table; a later stage with a flavor of its own needs nothing of the folder of its first weights."""
    is_first = not config.stage.from_ or config.model.flavor == INITIAL_FLAVOR
    return config.model if is_first else replace(config.model, initial="")


def trained_shape(config: ModelConfig, provenance: Provenance | None) -> BackboneShape:
    """Sizes that a checkpoint was trained with; its record has them, also where model.initial is gone."""
    return provenance.backbone if provenance is not None and provenance.backbone is not None else model_shape(config)
