"""The process in which another engine answers; it imports nothing of titan_speech, so any interpreter can run it.

In: a JSON file: engine, model folder, dtype, documents (ids and length of the prefix) and the number of ids to
generate. Out: a JSON file: for each document the log-probability of each token after the first, and the ids that greedy
decoding gives after its prefix; the name and version of the engine. Documents of one length are one batch.

A process of its own because engines need other versions of torch than the trainer (vLLM), because their memory is free
when they end, and because one that crashes takes nothing with it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from typing import Any

MAX_LOGITS = 1 << 27
"""Logits at once: 0.5 GB in fp32."""


def main(request_file: str, answer_file: str) -> None:
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    answer = {"transformers": _transformers, "ctranslate2": _ctranslate2, "vllm": _vllm}[request["engine"]](request)
    with open(answer_file, "w", encoding="utf-8") as file:
        json.dump(answer, file)


def batches_of(lengths: list[tuple[int, int]], num_rows: int) -> list[list[int]]:
    """Numbers of documents of equal length and equal prefix, few enough that their logits fit.

    Args:
        lengths: of each document and of its prefix.
        num_rows: of the vocabulary.
    """
    groups = defaultdict(list)
    for number, pair in enumerate(lengths):
        groups[pair].append(number)
    batches = []
    for (length, _), numbers in groups.items():
        size = max(1, MAX_LOGITS // (length * num_rows))
        batches += [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return batches


def _lengths(request: dict[str, Any]) -> list[tuple[int, int]]:
    return [(len(document["ids"]), document["num_prefix"]) for document in request["documents"]]


def _transformers(request: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, GenerationConfig

    dtype = getattr(torch, request["dtype"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        request["model"], dtype=dtype, use_safetensors=True, trust_remote_code=False
    ).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    documents = request["documents"]
    logprobs: list[Any] = [None] * len(documents)
    greedy: list[Any] = [None] * len(documents)
    with torch.inference_mode():
        for numbers in batches_of(_lengths(request), model.config.vocab_size):
            ids_BT = torch.tensor([documents[number]["ids"] for number in numbers])
            logits_BTV = model(ids_BT).logits[:, :-1].float()
            targets_BT1 = ids_BT[:, 1:, None]
            logprobs_BT = logits_BTV.gather(-1, targets_BT1)[..., 0] - logits_BTV.logsumexp(-1)
            prefix_BP = ids_BT[:, : documents[numbers[0]]["num_prefix"]]
            generated_BN = model.generate(
                prefix_BP,
                attention_mask=torch.ones_like(prefix_BP),
                do_sample=False,
                max_new_tokens=request["num_greedy"],
            )[:, prefix_BP.shape[1] :]
            for row, number in enumerate(numbers):
                logprobs[number], greedy[number] = logprobs_BT[row].tolist(), generated_BN[row].tolist()
    return {"name": f"transformers {transformers.__version__}", "logprobs": logprobs, "greedy": greedy}


def _ctranslate2(request: dict[str, Any]) -> dict[str, Any]:
    import ctranslate2  # pyright: ignore[reportMissingImports]
    import numpy as np
    from ctranslate2.converters import TransformersConverter  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{request['model']}/tokenizer.json")
    documents = request["documents"]
    logprobs: list[Any] = [None] * len(documents)
    greedy: list[Any] = [None] * len(documents)
    with tempfile.TemporaryDirectory() as folder:
        TransformersConverter(request["model"]).convert(f"{folder}/model", quantization=request["dtype"])
        generator = ctranslate2.Generator(f"{folder}/model", compute_type=request["dtype"])
        for numbers in batches_of(_lengths(request), tokenizer.get_vocab_size()):
            batch = [documents[number]["ids"] for number in numbers]
            logits_BTV = np.array(generator.forward_batch(batch)).astype(np.float32)[:, :-1]
            greatest_BT1 = logits_BTV.max(-1, keepdims=True)
            norms_BT = np.log(np.exp(logits_BTV - greatest_BT1).sum(-1)) + greatest_BT1[..., 0]
            prompts = [
                [tokenizer.id_to_token(id_) for id_ in ids[: documents[number]["num_prefix"]]]
                for number, ids in zip(numbers, batch, strict=True)
            ]
            results = generator.generate_batch(
                prompts,
                max_length=request["num_greedy"],
                sampling_topk=1,
                include_prompt_in_result=False,
                end_token=[],
            )
            for row, number in enumerate(numbers):
                targets_T = np.array(batch[row][1:])
                logprobs_T = logits_BTV[row, np.arange(len(targets_T)), targets_T] - norms_BT[row]
                logprobs[number], greedy[number] = logprobs_T.tolist(), list(results[row].sequences_ids[0])
    return {"name": f"CTranslate2 {ctranslate2.__version__}", "logprobs": logprobs, "greedy": greedy}


def _vllm(request: dict[str, Any]) -> dict[str, Any]:
    import vllm  # pyright: ignore[reportMissingImports]
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    documents = request["documents"]
    longest = max(len(document["ids"]) for document in documents) + request["num_greedy"]
    model = LLM(request["model"], dtype=request["dtype"], enforce_eager=True, max_model_len=longest, max_num_seqs=8)
    score = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    found = model.generate([{"prompt_token_ids": document["ids"]} for document in documents], score)
    logprobs = [
        [place[id_].logprob for id_, place in zip(document["ids"][1:], one.prompt_logprobs[1:], strict=True)]
        for document, one in zip(documents, found, strict=True)
    ]
    decode = SamplingParams(temperature=0, max_tokens=request["num_greedy"], ignore_eos=True)
    prefixes = [{"prompt_token_ids": document["ids"][: document["num_prefix"]]} for document in documents]
    greedy = [list(one.outputs[0].token_ids) for one in model.generate(prefixes, decode)]
    return {"name": f"vLLM {vllm.__version__}", "logprobs": logprobs, "greedy": greedy}


if __name__ == "__main__":
    main(*sys.argv[1:])
