"""Decoding applies the head to the last position only, and leaves the model as it was."""

from __future__ import annotations

import torch

from tests.model.test_model import debug_model, logits_of
from titan_speech.generate.sampling import Decoding, generate_codes
from titan_speech.tokenization.prompt_template import Grammar, Parts, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def test_a_model_that_decoded_still_gives_the_logits_of_all_positions() -> None:
    vocabulary = TextTokenizer.load("tokenizer/tiny").vocabulary()
    model = debug_model("llama3", vocabulary.num_rows)
    ids_T = torch.arange(5)
    with torch.no_grad():
        before = logits_of(model, [ids_T])
        decoded = generate_codes(model, Grammar(vocabulary), Task.SPEECH, Parts(), Decoding(max_codes=2))
        assert 0 < len(decoded.codes_F) <= 2
        assert torch.equal(logits_of(model, [ids_T]), before)
