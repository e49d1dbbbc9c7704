"""Small Hugging Face folders, written by transformers itself, with the bundled tokenizer."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from tests.support.runs import ROOT, SMALL
from titan_speech.checkpoint.verify import write_marker
from titan_speech.config.resolved import save_resolved
from titan_speech.hf.config_json import model_shape
from titan_speech.hf.model_folder import HFFolder
from titan_speech.model.spec import HFAdapter, model_spec
from titan_speech.preflight.config_checks import load_config
from titan_speech.tokenization.text_tokenizer import TextTokenizer

TOKENIZER = ROOT / "tokenizer" / "tiny"


@dataclass(frozen=True)
class Backbone:
    """What differs between the backbones of the tests."""

    family: str = "llama3"
    is_tied: bool = True
    num_kv_heads: int = 2
    num_rows: int | None = None
    """None: as many as the tokenizer stands for."""
    dtype: torch.dtype = torch.float32
    rope_factor: float | None = None
    max_shard_size: str = "5GB"
    head_dim: int | None = None
    """None: that of the hidden size (Llama), or wider (Qwen3)."""

    @property
    def name(self) -> str:
        return f"{self.family}-{'tied' if self.is_tied else 'untied'}-{self.num_kv_heads}kv"


ALL_KINDS = [
    Backbone("llama3", True, 2),
    Backbone("llama3", False, 1, rope_factor=8.0),
    Backbone("qwen3", True, 4),
    Backbone("qwen3", False, 1),
]


def write_backbone(folder: Path, kind: Backbone = Backbone()) -> PreTrainedModel:
    """A backbone of random weights, large enough to tell rows apart, and its tokenizer."""
    tokenizer = TextTokenizer.load(TOKENIZER)
    torch.manual_seed(0)
    model = _model(kind, kind.num_rows or tokenizer.num_base, tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(5)
    cast(Any, model).to(kind.dtype).save_pretrained(folder, max_shard_size=kind.max_shard_size)
    shutil.copy(TOKENIZER / "tokenizer.json", folder)
    return model.float().eval()


def _model(kind: Backbone, num_rows: int, tokenizer: TextTokenizer) -> PreTrainedModel:
    sizes = {"vocab_size": num_rows, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kind.num_kv_heads, "tie_word_embeddings": kind.is_tied}
    frame = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "max_position_embeddings": 4096}
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": 10_000.0}
    if kind.rope_factor is not None:
        rope |= {"rope_type": "llama3", "factor": kind.rope_factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope["original_max_position_embeddings"] = 64  # short, so that scaling shows in a short test
    shared = {**sizes, **heads, **frame, "rms_norm_eps": 1e-5, "rope_parameters": rope}
    if kind.family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(head_dim=kind.head_dim or 24, **shared))
    return LlamaForCausalLM(LlamaConfig(head_dim=kind.head_dim, **shared))


def in_pairs(rows_R: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of whole heads, from the order of halves to that of neighbours."""
    return rows_R.reshape(-1, 2, head_dim // 2, *rows_R.shape[1:]).transpose(1, 2).reshape(rows_R.shape)


def write_run(folder: Path, initial: Path, family: str) -> Path:
    """A run folder whose step 5 holds the weights of the grown folder `initial`, as TorchTitan writes them."""
    words = ["--job.config_file", str(ROOT / SMALL), "--job.dump_folder", str(folder)]
    words += ["--model.initial", str(initial), "--model.flavor", "initial", "--model.family", family]
    words += ["--tokenizer.path", str(initial)]
    loaded = load_config(words)
    folder.mkdir(parents=True)
    save_resolved(loaded, folder)
    grown = HFFolder.open(initial)
    spec = model_spec(model_shape(loaded.config.model), "dense", grown.num_rows)
    model = spec.model.build()
    with torch.no_grad():
        model.init_weights()
    adapter = HFAdapter(spec.model, None)  # pyright: ignore[reportArgumentType]
    model.load_state_dict(adapter.from_hf({name: grown.tensor(name) for name in grown.files}), strict=False)
    state = model.state_dict()
    if family == "llama3":  # without a record it is a checkpoint of TorchTitan's, whose Llama rotates neighbours
        head_dim = grown.shape.head_dim
        queries_and_keys = [name for name in state if name.endswith((".wq.weight", ".wk.weight"))]
        state |= {name: in_pairs(state[name], head_dim) for name in queries_and_keys}
    dcp.save(state, checkpoint_id=str(folder / "checkpoint" / "step-5"), no_dist=True)
    write_marker(folder / "checkpoint" / "step-5")
    return folder
