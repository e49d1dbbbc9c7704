"""Export the adapter of a LoRA checkpoint as a folder that peft loads on the base in transformers.

In: a LoRA checkpoint; its base is not read. Out: adapter_config.json, adapter_model.safetensors, README.md.

Queries, keys and values are one matrix here and three there: the three adapters share the first matrix of the pair,
which is written three times, and get their rows of the second. The rows are put in Hugging Face's order by the same
code as weights are, TorchTitan's: for that, the second matrix takes the place of the weight. New vocabulary rows have
no place in such a folder; a checkpoint that trained them is exported merged.

Shapes: O outputs, I inputs of a matrix, R the rank, D the width of the model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from torchtitan.models.common.decoder import Decoder

from titan_speech.errors import CheckpointError
from titan_speech.hf.config_json import write_json
from titan_speech.hf.export import WeightsCheckpoint
from titan_speech.hf.lora_export import TensorReader, holds_adapter
from titan_speech.hf.safetensors_writer import new_folder
from titan_speech.model.backbones import BackboneShape
from titan_speech.model.exported_files import CARD_NAME
from titan_speech.model.lora import adapted_layers, is_of_base
from titan_speech.model.spec import HFAdapter, model_spec
from titan_speech.utils.files import write_atomically

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""peft's own wrapper around the model."""


def export_adapter(checkpoint: WeightsCheckpoint, output: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder `output`, which appears when it is complete.

    Args:
        checkpoint: of a LoRA run.
        output: must not exist.
        dtype: of the adapter.

    Raises:
        CheckpointError: the checkpoint has no adapter, or one with trained vocabulary rows.
        ModelError: the output exists, or the disk is too small.
    """
    if not holds_adapter(checkpoint.provenance):
        raise CheckpointError(f"{checkpoint.path} holds a whole model and no adapter; leave --adapter out")
    if checkpoint.config.lora.train_new_rows:
        raise CheckpointError(
            f"{checkpoint.path} has trained new vocabulary rows next to its adapter, which a peft folder cannot hold; "
            "export it merged (leave --adapter out)"
        )
    with checkpoint.kept(), new_folder(output, 0) as partial:
        tensors = {name: tensor.to(dtype) for name, tensor in _peft_tensors(checkpoint).items()}
        write_atomically(partial / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
        write_json(partial / CONFIG_NAME, _peft_config(checkpoint, tensors))
        write_atomically(partial / CARD_NAME, _card(checkpoint))


def _peft_tensors(checkpoint: WeightsCheckpoint) -> dict[str, torch.Tensor]:
    """Both matrices of every adapter, by peft's names."""
    lora, shape = checkpoint.config.lora, checkpoint.shape
    spec = model_spec(shape, "dense", checkpoint.grammar.vocabulary.num_rows, None, lora)
    with torch.device("meta"):
        model = spec.model.build()
    assert isinstance(model, Decoder)
    saved = {name: torch.empty(value.shape) for name, value in model.state_dict().items() if not is_of_base(name)}
    TensorReader(checkpoint.path, shape).read(saved)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer, _, _, _ in list(adapted_layers(model)):
        a_RI, b_OR = saved[f"{name}.lora_a.weight"], saved[f"{name}.lora_b.weight"]
        for module, rows_OR in _rows_by_module(model, layer, b_OR, shape).items():
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = a_RI.clone()
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = rows_OR
    return tensors


def _rows_by_module(
    model: Decoder, layer: nn.Linear, b_OR: torch.Tensor, shape: BackboneShape
) -> dict[str, torch.Tensor]:
    """The rows of an adapter's second matrix, by the Hugging Face name of the module that they belong to."""
    meta, rank = layer.weight, b_OR.shape[1]
    padded_OD = nn.functional.pad(b_OR, (0, shape.dim - rank))  # TorchTitan's conversion expects the width of a weight
    layer.weight = nn.Parameter(padded_OD, requires_grad=False)
    state = {name: value for name, value in model.state_dict().items() if is_of_base(name) and not value.is_meta}
    layer.weight = meta
    converted = HFAdapter(model.config, None).to_hf(state)  # pyright: ignore[reportArgumentType]
    return {name.removesuffix(".weight"): value[:, :rank].contiguous() for name, value in converted.items()}


def _peft_config(checkpoint: WeightsCheckpoint, tensors: dict[str, torch.Tensor]) -> dict[str, object]:
    lora = checkpoint.config.lora
    modules = {name.removesuffix(".lora_A.weight").rpartition(".")[2] for name in tensors if ".lora_A." in name}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _card(checkpoint: WeightsCheckpoint) -> str:
    assert checkpoint.provenance is not None, "a checkpoint with an adapter has a record"
    title = checkpoint.config.job.description or "Adapter of a speech language model"
    return f"""---
library_name: peft
tags:
- titan_speech
- lora
---

# {title}

A LoRA adapter ({checkpoint.provenance.lora}), step {checkpoint.step:,}, trained with titan_speech. It belongs to the
base whose weights have the fingerprint {checkpoint.provenance.base_fingerprint}, and to no other:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), adapter_folder)
```
"""
