"""A tiktoken vocabulary as a tokenizer.json.

In: `tokenizer.model`, as Meta publishes Llama 3: one `base64(token) rank` a line. Out: the JSON of the `tokenizers`
library that gives the same ids, so that everything after this knows one kind of tokenizer. Ranks imply merges: a token
comes of every pair of tokens that spell it, in the order of its rank. Loading Llama 3 this way took 11 s where
tokenizer.json took 6, on a busy machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiktoken.load import load_tiktoken_bpe

from titan_speech.errors import VocabularyError

FILE_NAME = "tokenizer.model"
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
"""Named specials after the ranks, as of Llama 3.1; the others are reserved and numbered as they come."""
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tiktoken_as_json(file: Path) -> dict[str, Any]:
    """The content of tokenizer.json for a Llama 3 vocabulary.

    Raises:
        VocabularyError: the file is no tiktoken vocabulary, or not that of Llama 3.
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
        "added_tokens": [_special(LLAMA3_NUM_RANKS + i, name) for i, name in enumerate(_special_names())],
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


def _special_names() -> list[str]:
    reserved = (f"<|reserved_special_token_{i}|>" for i in range(LLAMA3_NUM_SPECIALS))
    return [LLAMA3_SPECIALS.get(i) or next(reserved) for i in range(LLAMA3_NUM_SPECIALS)]


def _special(id_: int, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": name, **plain, "special": True}


def _merges(ranks: dict[bytes, int], token: bytes) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that makes this one: tiktoken merges whichever of them it meets."""
    cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
    pairs = [(left, right) for left, right in cuts if left in ranks and right in ranks]
    return sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def byte_spelling() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself where printable, else from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
