"""Folders made as the two other trainers make theirs, with transformers and Llama 3's published vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.support.published_vocabularies import LLAMA3, npm_tokenizer
from titan_speech.hf.convert import export_model, import_model
from titan_speech.hf.row_initialization import NewRows
from titan_speech.tokenization.foreign_layouts import FOREIGN_LAYOUTS
from titan_speech.tokenization.known_tokenizers import LLAMA3_ROWS

pytestmark = pytest.mark.slow

CODES = [f"<|s_{code}|>" for code in range(65_536)]
INWORLD = [
    f"<|{name}_{end}|>"
    for name in ("speech", "text_prompt", "voice_description", "sound_effect")
    for end in ("start", "end")
]
LLASA = [
    f"<|{name}_{end}|>"
    for name in ("TEXT_GENERATION", "TEXT_UNDERSTANDING", "SPEECH_GENERATION", "SPEECH_UNDERSTANDING")
    for end in ("START", "END")
]
SAID = "Convert the text to speech:<|text_prompt_start|>नमस्ते<|SPEECH_GENERATION_START|><|s_5|><|s_10000|><|speech_end|>"


def grow_as_they_do(tokenizer: Any, name: str) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    if name == "inworld":
        tokenizer.add_tokens(sorted([*INWORLD, *CODES]))
        tokenizer.add_tokens([f"<|extra_token_{i}|>" for i in range(193_856 - len(tokenizer))])
    else:
        tokenizer.add_tokens([*LLASA, *CODES])


@pytest.mark.parametrize("name", FOREIGN_LAYOUTS)
def test_theirs_through_ours_is_theirs_again_with_the_same_ids_for_the_same_words(tmp_path: Path, name: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(npm_tokenizer(LLAMA3, tmp_path), model_max_length=2048)
    grow_as_they_do(tokenizer, name)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    frame = {"bos_token_id": 128_000, "eos_token_id": [128_001, 128_008, 128_009]}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=LLAMA3_ROWS, tie_word_embeddings=True, **sizes, **frame))
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours", FOREIGN_LAYOUTS[name], NewRows())
    export_model(tmp_path / "ours", tmp_path / "again", FOREIGN_LAYOUTS[name])
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    again: Any = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert len(again) == len(tokenizer) == FOREIGN_LAYOUTS[name].num_rows
    ids = tokenizer(SAID).input_ids
    assert again(SAID).input_ids == ids
    assert again.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)
    turns = [{"role": "user", "content": SAID}]
    assert again.apply_chat_template(turns, tokenize=False) == tokenizer.apply_chat_template(turns, tokenize=False)
