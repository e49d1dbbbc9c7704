"""llama.cpp against the trainer: greedy ids and their log-probabilities of an exported Llama, converted to GGUF.

    pip install xllamacpp gguf          # llama.cpp as a wheel, and its file format
    python -m benchmarks.parity_llama_cpp --model heart/model --checkpoint heart/run --json parity_llama_cpp.json

In: an exported folder and its checkpoint. Out: a JSON file. After the prefix of each document of the parity gate, the
server of llama.cpp decodes greedily; the trainer's forward pass reads what it generated and says which id it would have
chosen, and how probable each is. llama.cpp's server gives no log-probabilities of a prompt, so those of given text are
not compared, as `titan-speech model compare` does with other engines.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
import xllamacpp  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.machine import load, this_machine
from titan_speech.evaluate.parity import BOUNDS, _trained_model, _trainer_logits
from titan_speech.evaluate.parity_documents import NUM_GREEDY, ParityDocument, parity_documents
from titan_speech.hf.export import WeightsCheckpoint
from titan_speech.utils.json_text import read_json_file

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(folder: Path, path: Path) -> None:
    """An exported Llama as GGUF in fp32; tokens have their names, and prompts come as ids."""
    config = read_json_file(folder / "config.json")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"<{number}>" for number in range(config["vocab_size"])])
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * config["vocab_size"])
    writer.add_token_merges(["< 0"])  # of its own tokenizer, which is not asked; without one it does not load
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["pad_token_id"])  # as with other engines, decoding goes on after the end of a text
    writer.add_add_bos_token(False)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, tensor in load_file(folder / "model.safetensors").items():
        theirs, values = _named(name.removesuffix(".weight")), tensor.float().numpy()
        if (kind := theirs.rpartition(".")[2]) in heads:
            values = _in_pairs(values, heads[kind])
        writer.add_tensor(f"{theirs}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, number, rest = name.split(".", 3)
        return f"blk.{number}.{NAMES[rest]}"
    return NAMES[name]


def _in_pairs(values: NDArray, num_heads: int) -> NDArray:
    """Rows of a head in halves, as transformers rotates them, in the order of pairs, as llama.cpp does."""
    rows, width = values.shape
    return values.reshape(num_heads, 2, rows // num_heads // 2, width).swapaxes(1, 2).reshape(rows, width)


@contextmanager
def running(path: Path) -> Iterator[str]:
    """The address of llama.cpp's server with a model."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(path), 512, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup, params.hostnames, params.port = False, ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


def continued(address: str, document: ParityDocument) -> tuple[list[int], list[float]]:
    """Greedy ids after a document's prefix, and their log-probabilities."""
    asked = {"prompt": document.prefix, "n_predict": NUM_GREEDY, "temperature": 0, "n_probs": 1}
    asked |= {"return_tokens": True, "cache_prompt": False, "samplers": ["temperature"]}
    request = urllib.request.Request(f"{address}/completion", json.dumps(asked).encode())
    with urllib.request.urlopen(request, timeout=600) as reply:
        found: dict[str, Any] = json.load(reply)
    return found["tokens"], [one["logprob"] for one in found["completion_probabilities"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="exported folder in fp32")
    parser.add_argument("--checkpoint", type=Path, required=True, help="that it was exported from")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    before, checkpoint = load(), WeightsCheckpoint.open(args.checkpoint)
    documents = parity_documents(checkpoint.grammar)
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(args.model, Path(folder) / "model.gguf")
        with running(Path(folder) / "model.gguf") as address:
            answers = [continued(address, document) for document in documents]
    logits_of = _trainer_logits(_trained_model(checkpoint, torch.float32, None))
    apart, gaps = [], []
    for document, (ids, logprobs) in zip(documents, answers, strict=True):
        start = document.num_prefix_tokens - 1
        logits_NV = logits_of(torch.tensor([document.prefix + ids]))[0, start:-1]
        chosen_N = logits_NV.gather(-1, torch.tensor(ids)[:, None])[:, 0]
        gaps += (logits_NV.amax(-1) - chosen_N).tolist()
        apart += (chosen_N - logits_NV.logsumexp(-1) - torch.tensor(logprobs)).abs().tolist()
    found = {
        "engine": f"llama.cpp in xllamacpp {xllamacpp.__version__}, fp32 GGUF, CPU",
        "num_documents": len(documents),
        "num_greedy": len(gaps),
        "num_not_first_choice": sum(gap > 0 for gap in gaps),
        "num_not_first_choice_nor_tied": sum(gap > BOUNDS["float32"].tie for gap in gaps),
        "logprobs_apart": dict(zip(("median", "p99", "most"), np.quantile(apart, (0.5, 0.99, 1.0)), strict=True)),
    }
    print(json.dumps(found, indent=1))
    args.json.write_text(json.dumps({"machine": asdict(this_machine(before)), **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
