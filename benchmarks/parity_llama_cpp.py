"""llama.cpp against the trainer: greedy ids and their log-probabilities of an exported Llama, converted to GGUF.

    pip install xllamacpp gguf          # llama.cpp as a wheel, and its file format
    python -m benchmarks.parity_llama_cpp --model heart/model --checkpoint heart/run --json parity_llama_cpp.json

In: an exported folder and its checkpoint. Out: a JSON file. After the prefix of each document of the parity gate, the
server of llama.cpp decodes greedily; the trainer's forward pass reads what it generated and says which id it would have
chosen, and how probable each is. llama.cpp's server gives no log-probabilities of a prompt, so those of given text are
not compared, as `titan-speech model compare` does with other engines.

Measured with and without flash attention. Before it, llama.cpp rounds keys and values to fp16, whatever type the cache
has, and uses it unless it is turned off: without it two engines in fp32 are compared. Its server adds up the
probabilities of all ids in fp32, one after the other, which moves all log-probabilities of a step together, so the
logits of its first choices are compared too, as their distances from the first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
import xllamacpp  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.machine import load, this_machine, write_results
from titan_speech.evaluate.engines import NUM_GREEDY, ParityDocument, parity_documents
from titan_speech.evaluate.parity import BOUNDS, _trained_model, _trainer_logits
from titan_speech.hf.export import WeightsCheckpoint
from titan_speech.utils.json_text import read_json_file

NUM_CHOICES = 10
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
    writer.add_eos_token_id(config["pad_token_id"])  # as with other engines, decoding continues after the end of a text
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
def running(path: Path, has_flash_attention: bool) -> Iterator[str]:
    """The address of llama.cpp's server with a model."""
    flash = xllamacpp.llama_flash_attn_type
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(path), 512, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = (
        flash.LLAMA_FLASH_ATTN_TYPE_ENABLED if has_flash_attention else flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.warmup, params.hostnames, params.port = False, ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


@dataclass(frozen=True)
class Continuation:
    """What follows a document's prefix. N: tokens, K: first choices."""

    ids_N: list[int]
    choices_NK: list[list[int]]
    logprobs_NK: torch.Tensor


def continued(address: str, document: ParityDocument) -> Continuation:
    """Greedy ids after a document's prefix, with the likeliest ids of each step."""
    asked = {"prompt": document.prefix, "n_predict": NUM_GREEDY, "temperature": 0, "n_probs": NUM_CHOICES}
    asked |= {"return_tokens": True, "cache_prompt": False, "samplers": ["temperature"]}
    request = urllib.request.Request(f"{address}/completion", json.dumps(asked).encode())
    with urllib.request.urlopen(request, timeout=600) as reply:
        found: dict[str, Any] = json.load(reply)
    steps = [step["top_logprobs"] for step in found["completion_probabilities"]]
    return Continuation(
        found["tokens"],
        [[one["id"] for one in step] for step in steps],
        torch.tensor([[one["logprob"] for one in step] for step in steps]),
    )


def compared(
    documents: list[ParityDocument],
    answers: list[Continuation],
    logits_of: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, Any]:
    """How far answers to documents are from what the trainer's forward pass says of them."""
    logprobs_apart, logits_apart, gaps = list[float](), list[float](), list[float]()
    for document, answer in zip(documents, answers, strict=True):
        start = document.num_prefix_tokens - 1
        logits_NV = logits_of(torch.tensor([document.prefix + answer.ids_N]))[0, start:-1]
        chosen_N1 = logits_NV.gather(-1, torch.tensor(answer.ids_N)[:, None])
        gaps += (logits_NV.amax(-1) - chosen_N1[:, 0]).tolist()
        logits_NK, theirs_NK = logits_NV.gather(-1, torch.tensor(answer.choices_NK)), answer.logprobs_NK
        ours_NK = logits_NK - logits_NV.logsumexp(-1, keepdim=True)
        logprobs_apart += (ours_NK - theirs_NK)[:, 0].abs().tolist()
        between_NK = (logits_NK - logits_NK[:, :1]) - (theirs_NK - theirs_NK[:, :1])
        logits_apart += between_NK[:, 1:].abs().flatten().tolist()
    return {
        "num_greedy": len(gaps),
        "num_not_first_choice": sum(gap > 0 for gap in gaps),
        "num_not_first_choice_nor_tied": sum(gap > BOUNDS["float32"].tie for gap in gaps),
        "logits_apart": _quantiles(logits_apart),
        "logprobs_apart": _quantiles(logprobs_apart),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    return dict(zip(("median", "p99", "most"), np.quantile(values, (0.5, 0.99, 1.0)).tolist(), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="exported folder in fp32")
    parser.add_argument("--checkpoint", type=Path, required=True, help="that it was exported from")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    before, checkpoint = load(), WeightsCheckpoint.open(args.checkpoint)
    documents = parity_documents(checkpoint.grammar)
    logits_of = _trainer_logits(_trained_model(checkpoint, torch.float32, None))
    found: dict[str, Any] = {
        "engine": f"llama.cpp in xllamacpp {xllamacpp.__version__}, fp32 GGUF, fp32 cache, CPU",
        "num_documents": len(documents),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(args.model, Path(folder) / "model.gguf")
        for name, has_flash_attention in (("attention in fp32", False), ("flash attention", True)):
            with running(Path(folder) / "model.gguf", has_flash_attention) as address:
                answers = [continued(address, document) for document in documents]
            found[name] = compared(documents, answers, logits_of)
    print(json.dumps(found, indent=1))
    write_results(args.json, {"machine": asdict(this_machine(before)), **found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
