"""Published vocabularies: recognized by their tokens, and Llama 3's tiktoken file read as a tokenizer.json.

In: the entries of a byte-level vocabulary, or `tokenizer.model` as Meta publishes Llama 3 (one `base64(token) rank` per
line). Out: the published vocabulary with this sha256 over its tokens in order, or the JSON of the `tokenizers` library
that gives the same ids, so that everything else knows one kind of tokenizer.

The fingerprint covers neither special tokens nor the file format: base and Instruct models of one family,
tokenizer.json and `tokenizer.model` have the same one. Hashing 150,000 tokens took 1.6 s on a busy machine, so it is
done when the vocabulary of a backbone is extended, not at every load. Loading Llama 3 from `tokenizer.model` took 11 s
where tokenizer.json took 6 s: ranks imply merges, so every pair of tokens that spells a token is searched.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiktoken.load import load_tiktoken_bpe

from titan_speech.errors import VocabularyError

LLAMA3_ROWS, QWEN3_ROWS = 128_256, 151_936
"""Embedding rows of the backbones of each family."""
LLAMA3_NUM_RANKS, LLAMA3_NUM_SPECIALS = 128_000, 256
LLAMA3_SPECIALS = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
"""Named specials of Llama 3.1 by their place after the ranks; the others are reserved and numbered in order."""
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiktoken_as_json(file: Path) -> dict[str, Any]:
    """The content of a tokenizer.json with the ids of Llama 3's tiktoken file.

    Raises:
        VocabularyError: the file is not a tiktoken vocabulary, or not that of Llama 3.
    """
    try:
        ranks = load_tiktoken_bpe(str(file))
    except ValueError as error:
        raise VocabularyError(f"{file} is not a tiktoken vocabulary ({error}); a SentencePiece model is not") from error
    if len(ranks) != LLAMA3_NUM_RANKS:
        raise VocabularyError(
            f"{file} has {len(ranks)} tokens; of tiktoken vocabularies only Llama 3's is known, with "
            f"{LLAMA3_NUM_RANKS}: give tokenizer.json instead"
        )
    spelling = byte_spelling()
    spelt = {token: "".join(spelling[byte] for byte in token) for token in ranks}
    merges = [[spelt[left], spelt[right]] for token in ranks for left, right in _merges(ranks, token)]
    split = {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _special_tokens(),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelt[token]: rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }


def _special_tokens() -> list[dict[str, Any]]:
    reserved = (f"<|reserved_special_token_{i}|>" for i in range(LLAMA3_NUM_SPECIALS))
    names = (LLAMA3_SPECIALS.get(i) or next(reserved) for i in range(LLAMA3_NUM_SPECIALS))
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": id_, "content": name, **plain, "special": True} for id_, name in enumerate(names, LLAMA3_NUM_RANKS)]


def _merges(ranks: dict[bytes, int], token: bytes) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that spells this one, by rank: tiktoken merges whichever pair it finds."""
    cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
    pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
    return sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def byte_spelling() -> list[str]:
    """The character for each byte in byte-level vocabularies: the byte itself if printable, else one from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@dataclass(frozen=True)
class KnownVocabulary:
    """A published vocabulary."""

    name: str
    num_tokens: int
    """Without special tokens."""
    num_base: int
    """Embedding rows of the backbones that use it."""


KNOWN_VOCABULARIES = {
    "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55": KnownVocabulary(
        "Llama 3", LLAMA3_NUM_RANKS, LLAMA3_ROWS
    ),
    "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186": KnownVocabulary("Qwen3", 151_643, QWEN3_ROWS),
}
"""By fingerprint: the sha256 of the tiktoken file of each family, listed in tokenizer/README.md."""


def ranks_fingerprint(ranks: Mapping[bytes, int]) -> str:
    """The sha256 of one line `base64(token) rank` per token, in the order of the ranks."""
    digest = hashlib.sha256()
    for token, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        digest.update(base64.b64encode(token) + b" %d\n" % rank)
    return digest.hexdigest()


def vocabulary_fingerprint(vocab: Mapping[str, int]) -> str | None:
    """`ranks_fingerprint` of `model.vocab` of a tokenizer.json; None if the vocabulary is not byte-level."""
    byte_of = {character: byte for byte, character in enumerate(byte_spelling())}
    try:
        return ranks_fingerprint(
            {bytes(byte_of[character] for character in token): rank for token, rank in vocab.items()}
        )
    except KeyError:
        return None
