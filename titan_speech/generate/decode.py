"""Decoding speech codes from a model, one prompt at a time.

In: a model and the prefix the grammar gives. Out: codes up to the stop token or a limit. Tokens that are no codes are
masked, so a sample always decodes to audio. Without a key-value cache each token costs a pass over the whole
sequence: fine for the debug model, too slow for large ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchtitan.models.common.decoder import Decoder

from titan_speech.tokenization.prompt_template import Grammar, Parts, Task

# Shape legend: T tokens so far, D model width, V vocabulary rows, F codes (frames).


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen; temperature 0 takes the likeliest."""

    temperature: float = 0.8
    top_k: int = 50
    min_codes: int = 1
    """The stop token is masked until there are so many: no audio is empty."""
    max_codes: int = 300
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """Codes and whether the model ended them itself."""

    codes_F: NDArray[np.uint16]
    stopped: bool


@torch.inference_mode()
def generate_codes(
    model: Decoder, grammar: Grammar, task: Task, parts: Parts, decoding: Decoding = Decoding()
) -> Generated:
    """Decode the target of a speech task from the very prefix documents of that task are trained with."""
    vocabulary = grammar.vocabulary
    stop_id = grammar.stop_id(task)
    generator = torch.Generator().manual_seed(decoding.seed)
    ids_T = torch.from_numpy(grammar.prefix(task, parts).astype(np.int64))
    num_prefix = len(ids_T)
    allowed_V = torch.from_numpy(vocabulary.code_rows())
    for _ in range(decoding.max_codes):
        allowed_V[stop_id] = len(ids_T) - num_prefix >= decoding.min_codes
        next_id = _choose(_last_logits(model, ids_T), allowed_V, decoding, generator)
        if next_id == stop_id:
            return Generated(vocabulary.ids_to_codes(ids_T[num_prefix:].numpy()), stopped=True)
        ids_T = torch.cat((ids_T, torch.tensor([next_id])))
    return Generated(vocabulary.ids_to_codes(ids_T[num_prefix:].numpy()), stopped=False)


def _last_logits(model: Decoder, ids_T: torch.Tensor) -> torch.Tensor:
    """Logits of the next token; the head is applied to the last position only."""
    positions_1T = torch.arange(len(ids_T)).unsqueeze(0)
    model._skip_lm_head = True
    hidden_1TD = model(ids_T.unsqueeze(0), positions_1T, model.get_attention_masks(positions_1T))
    assert model.lm_head is not None
    return model.lm_head(hidden_1TD[:, -1:])[0, 0].float()


def _choose(logits_V: torch.Tensor, allowed_V: torch.Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    logits_V = logits_V.masked_fill(~allowed_V, -torch.inf)
    if decoding.temperature == 0:
        return int(logits_V.argmax())
    top_logits, top_ids = logits_V.topk(min(decoding.top_k, len(logits_V)))
    weights = torch.softmax(top_logits / decoding.temperature, dim=-1)
    return int(top_ids[torch.multinomial(weights, 1, generator=generator)])
