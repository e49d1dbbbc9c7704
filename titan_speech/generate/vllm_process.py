"""The process in which vLLM continues prompts; it imports nothing of titan_speech, so any interpreter can run it.

In: a JSON file: model folder, dtype, sampling parameters, prompts as ids with their seeds and numbers. Out: a line of
JSON in a journal for each prompt as soon as it is finished: its number, its ids, and the seconds since generation
began. vLLM takes up a prompt whenever another one ends, so one long utterance does not hold up a batch. Only codes and
the stop token can be sampled. The process ends with its parent.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a second process would outlive this one


def main(request_file: str, journal_file: str) -> None:
    import torch
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    parent, prompts, sampling = os.getppid(), request["prompts"], request["sampling"]
    longest = max(len(prompt["ids"]) for prompt in prompts) + sampling["max_codes"]
    model = LLM(
        request["model"],
        dtype=request["dtype"],
        max_model_len=longest,
        skip_tokenizer_init=True,
        enforce_eager=not torch.cuda.is_available(),  # compiling takes longer than it saves on a CPU
    )
    allowed = [*range(*sampling["code_ids"]), sampling["stop_id"]]
    engine: Any = model.llm_engine
    for prompt in prompts:
        params = SamplingParams(
            temperature=sampling["temperature"],
            top_k=sampling["top_k"],
            seed=prompt["seed"],
            min_tokens=sampling["min_codes"],
            max_tokens=sampling["max_codes"],
            stop_token_ids=[sampling["stop_id"]],
            allowed_token_ids=allowed,
            detokenize=False,
        )
        engine.add_request(str(prompt["number"]), {"prompt_token_ids": prompt["ids"]}, params)
    began = time.monotonic()
    with open(journal_file, "a", encoding="utf-8") as journal:
        journal.write("\n")  # the last line of an earlier start may be cut
        while engine.has_unfinished_requests() and os.getppid() == parent:
            for one in engine.step():
                if one.finished:
                    ids, sec = list(one.outputs[0].token_ids), time.monotonic() - began
                    journal.write(json.dumps({"number": int(one.request_id), "ids": ids, "sec": sec}) + "\n")
            journal.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
