"""Speech from an exported model folder, decoded by transformers' `generate`.

In: utterances and a folder written by `titan-speech model export`; to clone a voice, a reference recording with its
transcript. Out: codes of each utterance, decoded in one batch with a key-value cache. Prompts are those of training;
only codes and the stop token can be sampled, so every result decodes to audio.

Each utterance has random numbers of its own, so what it sounds like does not depend on the others of its batch. They
are drawn as Gumbel noise on the logits of the `top_k` likeliest tokens, whose maximum is a sample of their softmax.

Shapes: B utterances, T tokens of a prompt, F codes (frames), V vocabulary rows, K likeliest tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.generate.sampling import Decoding, Generated
from titan_speech.hf.model_card import ModelRecord, read_record
from titan_speech.hf.model_folder import HFFolder
from titan_speech.tokenization.prompt_template import Grammar, Parts, Task
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class ReferenceVoice:
    """A voice to clone."""

    codes_F: NDArray[np.uint16]
    transcript: str


@dataclass(frozen=True)
class Utterance:
    """One text that is synthesized."""

    text: str
    reference: ReferenceVoice | None = None
    """The voice to clone; None: a voice of the model's own."""
    seed: int = 0
    """Of its random numbers."""


@dataclass(frozen=True)
class SpeechPrompts:
    """What a model folder says about its prompts, without its weights."""

    tokenizer: TextTokenizer
    grammar: Grammar
    record: ModelRecord

    @classmethod
    def read(cls, folder: Path) -> SpeechPrompts:
        """Read tokenizer, grammar and record of a model folder.

        Args:
            folder: what `titan-speech model export` wrote.

        Raises:
            ModelError: the folder is damaged, was not written by `titan-speech model export`, or has another
                vocabulary or prompt grammar than this version.
        """
        record = read_record(folder)
        tokenizer = TextTokenizer.load(folder)
        grammar = Grammar(tokenizer.vocabulary())
        if (grammar.vocabulary.fingerprint, grammar.fingerprint) != (record.vocabulary, record.grammar):
            raise ModelError(
                f"{folder} was exported with vocabulary {record.vocabulary} and grammar {record.grammar}; this version "
                f"has {grammar.vocabulary.fingerprint} and {grammar.fingerprint}: use the version it was trained with"
            )
        HFFolder.open(folder)
        return SpeechPrompts(tokenizer, grammar, record)

    def parts(self, text: str, reference: ReferenceVoice | None) -> tuple[Task, Parts]:
        """Task and parts of a prompt: TTS of a text, or cloning if there is a reference."""
        text_ids = self._ids(text)
        if reference is None:
            return Task.TTS, Parts(text_ids=text_ids)
        ref_ids = self._ids(reference.transcript)
        return Task.CLONE, Parts(ref_text_ids=ref_ids, ref_codes=reference.codes_F, text_ids=text_ids)

    def _ids(self, text: str) -> NDArray[np.uint32]:
        if not text.strip():
            raise ModelError("there is no text to synthesize: give characters in --text and --reference-text")
        return np.array(self.tokenizer.encode(text), np.uint32)

    def prefix(self, utterance: Utterance) -> NDArray[np.int64]:
        """Token ids of an utterance's prompt.

        Raises:
            ModelError: its text is empty.
        """
        return self.grammar.prefix(*self.parts(utterance.text, utterance.reference)).astype(np.int64)

    @property
    def stop_id(self) -> int:
        """The token that ends speech."""
        return self.grammar.stop_id(Task.TTS)

    def generated(self, ids: NDArray[np.int64]) -> Generated:
        """What ids after a prompt say: the codes before the stop token, or all of them."""
        ends = np.flatnonzero(ids == self.stop_id)
        kept = ids[: ends[0]] if len(ends) else ids
        return Generated(self.grammar.vocabulary.ids_to_codes(kept), stopped=len(ends) > 0)


@dataclass(frozen=True)
class SpeechModel(SpeechPrompts):
    """A loaded model folder."""

    model: Any
    """transformers' causal language model."""

    @classmethod
    def load(cls, folder: Path) -> SpeechModel:
        """Load a model folder with transformers, in fp32 on a CPU and in the folder's own dtype on CUDA.

        Args:
            folder: what `titan-speech model export` wrote.

        Raises:
            ModelError: as `SpeechPrompts.read`, or transformers is not installed.
        """
        try:
            from transformers import AutoModelForCausalLM, GenerationConfig
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ModelError("generation needs transformers: pip install 'titan-speech[hf]'") from error

        prompts = SpeechPrompts.read(folder)
        disable_progress_bar()  # that is shown in logs too
        has_cuda = torch.cuda.is_available()
        dtype = "auto" if has_cuda else torch.float32
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        model.generation_config = GenerationConfig()  # no other settings than those that are recorded
        model = model.to("cuda" if has_cuda else "cpu").eval()
        return cls(prompts.tokenizer, prompts.grammar, prompts.record, model)

    def synthesize(self, utterances: Sequence[Utterance], decoding: Decoding) -> list[Generated]:
        """Decode the codes of each utterance, all in one batch.

        Args:
            utterances: what is synthesized.
            decoding: sampling parameters; its seed is added to that of each utterance.

        Raises:
            ModelError: a text is empty.
        """
        prefixes = [self.prefix(utterance) for utterance in utterances]
        return self.complete(prefixes, [utterance.seed for utterance in utterances], decoding)

    @torch.inference_mode()
    def complete(
        self, prefixes: Sequence[NDArray[np.int64]], seeds: Sequence[int], decoding: Decoding
    ) -> list[Generated]:
        """Decode the codes that follow each prompt, all in one batch.

        Args:
            prefixes: token ids of each prompt.
            seeds: of the random numbers of each.
            decoding: sampling parameters; its seed is added to these.
        """
        ids_BT, mask_BT = _left_padded(prefixes, self.grammar.vocabulary.pad_id)
        stop_id = self.stop_id
        processors: list[Any] = [_OnlyCodes(self.grammar, stop_id, ids_BT.shape[1], decoding.min_codes)]
        if decoding.temperature:
            processors.append(_Sample(decoding, seeds))
        generated = self.model.generate(
            ids_BT.to(self.model.device),
            attention_mask=mask_BT.to(self.model.device),
            do_sample=False,
            max_new_tokens=decoding.max_codes,
            eos_token_id=stop_id,
            pad_token_id=self.grammar.vocabulary.pad_id,
            logits_processor=processors,
        )
        return [self.generated(row[ids_BT.shape[1] :].cpu().numpy()) for row in generated]


class _OnlyCodes:
    """Logits processor that masks everything except codes, and the stop token until there are `min_codes`."""

    def __init__(self, grammar: Grammar, stop_id: int, num_prompt_tokens: int, min_codes: int) -> None:
        vocabulary = grammar.vocabulary
        self.stop_id, self.first_stop = stop_id, num_prompt_tokens + min_codes
        self.refused_V = torch.from_numpy(~vocabulary.code_rows())

    def __call__(self, ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        self.refused_V = self.refused_V.to(logits_BV.device)
        self.refused_V[self.stop_id] = ids_BT.shape[1] < self.first_stop
        return logits_BV.masked_fill(self.refused_V, -torch.inf)


class _Sample:
    """Logits processor after which the greatest logit of a row is a sample."""

    def __init__(self, decoding: Decoding, seeds: Sequence[int]) -> None:
        self.temperature, self.top_k = decoding.temperature, decoding.top_k
        self.generators = [torch.Generator().manual_seed(mixed_seed(decoding.seed, seed)) for seed in seeds]

    def __call__(self, ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        top_BK, places_BK = logits_BV.float().topk(min(self.top_k, logits_BV.shape[-1]))
        uniform_BK = torch.stack([torch.rand(top_BK.shape[1], generator=one) for one in self.generators])
        gumbel_BK = -torch.log(-torch.log(uniform_BK.clamp(1e-20, 1 - 1e-7))).to(top_BK.device)
        return torch.full_like(logits_BV, -torch.inf, dtype=torch.float32).scatter(
            1, places_BK, top_BK / self.temperature + gumbel_BK
        )


def mixed_seed(seed: int, other: int) -> int:
    """One seed of two, so that (0, 1) and (1, 0) are different streams."""
    digest = hashlib.blake2b(f"{seed} {other}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _left_padded(prefixes: Sequence[NDArray[np.int64]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded on the left to one length, and the mask of their tokens; both [B, T]."""
    longest = max(map(len, prefixes))
    ids_BT = torch.full((len(prefixes), longest), pad_id)
    mask_BT = torch.zeros(len(prefixes), longest, dtype=torch.long)
    for row, prefix in enumerate(prefixes):
        ids_BT[row, longest - len(prefix) :] = torch.from_numpy(prefix)
        mask_BT[row, longest - len(prefix) :] = 1
    return ids_BT, mask_BT
