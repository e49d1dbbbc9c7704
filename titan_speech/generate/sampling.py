"""Decoding speech codes from a run's model, one prompt at a time.

In: a model and the task and parts of a prompt. Out: codes, up to the stop token or a limit. Tokens that are not codes
are masked, so the result always decodes to audio. There is no key-value cache, so each token costs a pass over the
whole sequence: fine for the debug model, too slow for large ones, which are exported first (synthesize.py).

The codec that turns codes into audio must be the one that the run's stores were made with: its hash is compared, since
codes of another codec decode to noise.

Shapes: T tokens so far, D model width, V vocabulary rows, F codes (frames).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchtitan.models.common.decoder import Decoder

from titan_speech.codec.base import Codec
from titan_speech.errors import CodecError, DataError
from titan_speech.generate.load import TrainedRun
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import open_store
from titan_speech.tokenization.prompt_template import Grammar, Parts, Task


@dataclass(frozen=True)
class Decoding:
    """Sampling parameters."""

    temperature: float = 0.8
    """0 = greedy decoding."""
    top_k: int = 50
    min_codes: int = 1
    """The stop token is masked until this many codes are decoded, so that no audio is empty."""
    max_codes: int = 300
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """Decoded codes, and whether the model decoded the stop token."""

    codes_F: NDArray[np.uint16]
    stopped: bool


@torch.inference_mode()
def generate_codes(
    model: Decoder, grammar: Grammar, task: Task, parts: Parts, decoding: Decoding = Decoding()
) -> Generated:
    """Decode the target of a speech task, from the same prefix that its documents are trained with.

    Args:
        model: in evaluation mode, on the CPU.
        grammar: that of the run.
        task, parts: what the prefix is made of.
        decoding: sampling parameters.
    """
    vocabulary = grammar.vocabulary
    stop_id = grammar.stop_id(task)
    generator = torch.Generator().manual_seed(decoding.seed)
    ids_T = torch.from_numpy(grammar.prefix(task, parts).astype(np.int64))
    num_prefix = len(ids_T)
    allowed_V = torch.from_numpy(vocabulary.code_rows())
    for _ in range(decoding.max_codes):
        allowed_V[stop_id] = len(ids_T) - num_prefix >= decoding.min_codes
        next_id = _sample(_last_logits(model, ids_T), allowed_V, decoding, generator)
        if next_id == stop_id:
            return Generated(vocabulary.ids_to_codes(ids_T[num_prefix:].numpy()), stopped=True)
        ids_T = torch.cat((ids_T, torch.tensor([next_id])))
    return Generated(vocabulary.ids_to_codes(ids_T[num_prefix:].numpy()), stopped=False)


def _last_logits(model: Decoder, ids_T: torch.Tensor) -> torch.Tensor:
    """Logits of the next token, shape [V]; the head is applied to the last position only."""
    positions_1T = torch.arange(len(ids_T)).unsqueeze(0)
    skipped_before = model._skip_lm_head
    model._skip_lm_head = True
    try:
        hidden_1TD = model(ids_T.unsqueeze(0), positions_1T, model.get_attention_masks(positions_1T))
    finally:
        model._skip_lm_head = skipped_before
    assert model.lm_head is not None
    return model.lm_head(hidden_1TD[:, -1:])[0, 0].float()


def _sample(logits_V: torch.Tensor, allowed_V: torch.Tensor, decoding: Decoding, generator: torch.Generator) -> int:
    logits_V = logits_V.masked_fill(~allowed_V, -torch.inf)
    if decoding.temperature == 0:
        return int(logits_V.argmax())
    top_logits, top_ids = logits_V.topk(min(decoding.top_k, len(logits_V)))
    weights = torch.softmax(top_logits / decoding.temperature, dim=-1)
    return int(top_ids[torch.multinomial(weights, 1, generator=generator)])


def prompt_parts(trained: TrainedRun, text: str) -> tuple[Task, Parts]:
    """Task and parts of a prompt: TTS of the text, or unconditional speech if the text is empty."""
    if not text:
        return Task.SPEECH, Parts()
    return Task.TTS, Parts(text_ids=np.array(trained.tokenizer.encode(text), np.uint32))


def check_codec(codec: Codec, trained: TrainedRun) -> None:
    """Check that a codec is the one that the run's codes come from.

    Raises:
        CodecError: it is another one; the message names both.
        DataError: the run was trained on text only.
    """
    for info in store_codecs(trained):
        if info.hash != codec.codec_hash:
            raise CodecError(
                f"the run was trained on codes of codec {info.name} ({info.hash}), but {codec.name} has hash "
                f"{codec.codec_hash}; its decoder would make noise of them. Give the run's codec with --codec."
            )


def store_codecs(trained: TrainedRun) -> list[CodecInfo]:
    """The codecs of the run's stores; text stores have none."""
    paths = sorted({source.store for source in trained.config.data.source})
    manifests = [open_store(path, trained.config.storage).manifest for path in paths]
    codecs = [manifest.codec for manifest in manifests if manifest.codec is not None]
    if not codecs:
        raise DataError("the run was trained on text only; it has no codec to decode with")
    return codecs
