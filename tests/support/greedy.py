"""Greedy continuations, by the project's own decoding and by transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from titan_speech.generate.load import load_run
from titan_speech.generate.sampling import Decoding, generate_codes
from titan_speech.tokenization.prompt_template import Parts, Task

TEXT = "Please hold the line."
NUM_CODES = 16


def assert_same_greedy(run_folder: Path, exported: Path) -> None:
    """Token for token, with codes and the stop token to choose from; the prompt is the card's."""
    run = load_run(run_folder)
    parts = Parts(text_ids=np.array(run.tokenizer.encode(TEXT), np.uint32))
    greedy = Decoding(temperature=0, max_codes=NUM_CODES)
    codes_F = generate_codes(run.model, run.grammar, Task.TTS, parts, greedy).codes_F
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported)
    prompt = f"{tokenizer.bos_token}<|text_start|>{TEXT}<|text_end|><|speech_start|>"
    prompt_ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    assert prompt_ids[0].tolist() == run.grammar.prefix(Task.TTS, parts).tolist()
    vocabulary, stop_id = run.grammar.vocabulary, run.grammar.stop_id(Task.TTS)
    allowed = [*range(vocabulary.first_code_id, vocabulary.first_special_id), stop_id]
    generated = model.generate(
        prompt_ids,
        do_sample=False,
        max_new_tokens=NUM_CODES,
        prefix_allowed_tokens_fn=lambda batch, ids: allowed,
    )[0, prompt_ids.shape[1] :].tolist()
    found = [id_ for id_ in generated if id_ != stop_id]
    assert len(found) > 1
    assert vocabulary.ids_to_codes(found).tolist() == codes_F.tolist()
