"""How probable a model finds the recordings of a pack: more sensitive than what people hear.

In: an exported model in transformers, utterances, and the codes of their recordings. Out: for each the mean negative
log-probability of these codes in nats, each code given the prompt and the recorded codes before it (teacher-forced).
It is the loss of codes that training lowers, on the prompts of the pack. No sampling is in it, so one pass per prompt
tells models apart that sound alike; what it does not say is that anybody hears the difference, so it chooses no best
checkpoint by default. A recording that is one of several good ways to say a text is unlikely in a good model too:
differences between models count, not the value.

Shapes: P tokens of a prompt, F codes (frames), D model width, C codes of a chunk, V rows of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.evaluate.clip import Score
from titan_speech.evaluate.watch.generate_clips import is_out_of_memory
from titan_speech.generate.synthesize import SpeechModel, Utterance

METRIC = "recording_nll"
VERSION = "rules 1"
"""Changes whenever the same model gives other values."""
NO_RECORDING = "no recording"
CHUNK_LOGITS = 1 << 25
"""Logits at once: 128 MB in fp32."""


def likelihood_scores(
    model: SpeechModel, utterances: Sequence[Utterance], recordings: Sequence[NDArray[np.uint16] | str]
) -> list[Score]:
    """The score of each recording, weighted by its codes; a prompt that fails is marked, the others continue.

    Args:
        model: the export.
        utterances: what is spoken.
        recordings: the codes of each utterance's recording, or the reason why they are missing.
    """
    return [_score(model, *pair) for pair in zip(utterances, recordings, strict=True)]


def _score(model: SpeechModel, utterance: Utterance, codes_F: NDArray[np.uint16] | str) -> Score:
    if isinstance(codes_F, str):
        return Score.missing(codes_F) if codes_F == NO_RECORDING else Score.failure(codes_F)
    if not len(codes_F):
        return Score.failure("the recording has no codes")
    try:
        value = codes_nll(model, utterance, codes_F)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Score.failure(f"a recording of {len(codes_F):,} codes does not fit into memory")
    return Score(value, float(len(codes_F))) if math.isfinite(value) else Score.failure("the model gives no number")


@torch.inference_mode()
def codes_nll(model: SpeechModel, utterance: Utterance, codes_F: NDArray[np.uint16]) -> float:
    """The mean negative log-probability of codes after a prompt, in nats, over the whole vocabulary.

    Args:
        model: the export.
        utterance: the prompt.
        codes_F: what is said; at least one.

    Raises:
        ModelError: the text is empty.
    """
    network, prefix_P = model.model, model.prefix(utterance)
    targets_F = torch.from_numpy(model.grammar.vocabulary.codes_to_ids(codes_F).astype(np.int64)).to(network.device)
    ids_1T = torch.cat((torch.from_numpy(prefix_P).to(network.device), targets_F[:-1]))[None]
    hidden_FD = network.base_model(ids_1T, use_cache=False).last_hidden_state[0, len(prefix_P) - 1 :]
    head, total = network.get_output_embeddings(), 0.0
    size = max(1, CHUNK_LOGITS // head.out_features)
    for hidden_CD, targets_C in zip(hidden_FD.split(size), targets_F.split(size), strict=True):
        total += float(torch.nn.functional.cross_entropy(head(hidden_CD).float(), targets_C, reduction="sum"))
    return total / len(codes_F)
