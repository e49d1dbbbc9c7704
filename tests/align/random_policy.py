"""A policy that answers with random codes by the seed, for tests that need no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from titan_speech.align.prompts import StorePrompt
from titan_speech.generate.sampling import Decoding, Generated
from titan_speech.tokenization.prompt_template import Grammar
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@dataclass
class RandomPolicy:
    """Answers with random codes by the seed, as a model would; the process may be cut after some prompts."""

    tokenizer: TextTokenizer
    cut_after: int | None = None
    max_positions: int = 128
    asked: list[str] = field(default_factory=list)

    @property
    def grammar(self) -> Grammar:
        return Grammar(self.tokenizer.vocabulary())

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"model": "random", "step": 1, "weights": "0"}

    def parity(self, prompts: Sequence[StorePrompt], decoding: Decoding) -> None:
        """It is no model."""

    def answer(self, prompt: StorePrompt, count: int, decoding: Decoding) -> list[Generated]:
        if self.cut_after is not None and len(self.asked) == self.cut_after:
            raise KeyboardInterrupt
        self.asked.append(prompt.sample_id)
        rng = np.random.default_rng(decoding.seed)
        lengths = rng.integers(1, decoding.max_codes, count)
        return [Generated(rng.integers(0, 65_536, n, dtype=np.uint16), stopped=True) for n in lengths]
