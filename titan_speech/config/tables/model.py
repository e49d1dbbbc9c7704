"""The backbone and the tokenizer of its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelTable:
    """The backbone, with its vocabulary grown by the speech tokens."""

    family: Literal["llama3", "qwen3"] = "llama3"
    """Backbone family."""

    flavor: str = "debug"
    """Size within the family: debug, debug_untied, 0.6B, 1B, 1.7B, 8B (those the family has), or initial: the sizes of
    model.initial."""

    initial: str = ""
    """Hugging Face folder whose weights a run without checkpoints starts from: a backbone as it was published, which
    is grown on the fly, or one that `titan-speech model expand` grew. Empty: weights are drawn."""

    new_rows: Literal["mean_cov", "mean", "normal"] = "mean_cov"
    """Where rows of new tokens come from when model.initial is grown: mean and covariance of its rows, their mean, or a
    plain normal."""

    new_rows_scale: float = 0.01
    """Factor of the covariance of new rows."""

    attention: Literal["auto", "flex", "varlen", "dense"] = "auto"
    """Attention back end: flex or varlen (CUDA), dense (a mask and SDPA, memory grows with the square of seq_len); auto
    is flex on CUDA and dense on a CPU."""


@dataclass(frozen=True, kw_only=True)
class TokenizerTable:
    """The backbone's text tokenizer."""

    path: str = "tokenizer/tiny"
    """Folder with tokenizer.json; its fingerprint must equal the one the stores were built with."""
