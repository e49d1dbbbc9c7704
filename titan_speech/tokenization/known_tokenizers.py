"""Which published vocabulary a tokenizer is, told from its tokens alone.

In: the entries of a byte-level vocabulary, or the ranks of a tiktoken file. Out: the sha256 over its tokens in their
order, and what is known of it. Special tokens do not count, nor does the format of the file: base and Instruct models
of one family, tokenizer.json and `tokenizer.model` have one fingerprint. Hashing 150,000 tokens took 1.6 s on a busy
machine, so it is done where a backbone is grown, not at every load.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from titan_speech.tokenization.text_tokenizer import byte_spelling


@dataclass(frozen=True)
class KnownVocabulary:
    """A published vocabulary."""

    name: str
    num_tokens: int
    """Without specials."""
    num_base: int
    """Embedding rows of the backbones that have it."""


KNOWN = {
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": KnownVocabulary("Llama 3", 128_000, 128_256),
    "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186": KnownVocabulary("Qwen3", 151_643, 151_936),
}
"""By fingerprint, which is the sha256 of the tiktoken file each family publishes; tokenizer/README.md lists both."""


def ranks_fingerprint(ranks: Mapping[bytes, int]) -> str:
    """sha256 over one line `base64(token) rank` a token, in the order of the ranks."""
    digest = hashlib.sha256()
    for token, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        digest.update(base64.b64encode(token) + b" %d\n" % rank)
    return digest.hexdigest()


def vocabulary_fingerprint(vocab: Mapping[str, int]) -> str | None:
    """The same from `model.vocab` of a tokenizer.json; None where its tokens are not spelt byte by byte."""
    byte_of = {letter: byte for byte, letter in enumerate(byte_spelling())}
    try:
        return ranks_fingerprint({bytes(byte_of[letter] for letter in token): rank for token, rank in vocab.items()})
    except KeyError:
        return None
