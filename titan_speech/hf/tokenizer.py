"""The backbone's tokenizer.json with a name for every row the vocabulary grew by.

In: the tokenizer.json of the backbone and the vocabulary. Out: one that gives the backbone's ids for text, and the id
of each speech code and special for its name. Rows the backbone's tokenizer leaves unused and the padding at the end get
names too: the `tokenizers` library numbers added tokens without gaps, whatever ids a file gives them, so a hole would
shift every token after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from titan_speech.errors import ModelError
from titan_speech.layouts import Layout
from titan_speech.text_tokenizer import TextTokenizer
from titan_speech.vocabulary import Vocabulary

_UNUSED_BASE = "<|unused_base_"


def grown_tokenizer(base: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer.json, grown.

    Raises:
        ModelError: the tokenizer has speech tokens already, or more entries than the backbone has rows.
    """
    known = _entries(base)
    names = dict(_new_names(vocabulary, first=max(known.values()) + 1))
    taken = [name for name in names.values() if name in known]
    if taken:
        raise ModelError(
            f"the tokenizer has {len(taken)} of the speech tokens already, {taken[0]} among them; "
            "give the tokenizer of the backbone as it was published"
        )
    if max(known.values()) >= vocabulary.num_base:
        raise ModelError(
            f"the tokenizer has ids up to {max(known.values())}, the backbone {vocabulary.num_base} rows; "
            "they belong to different models"
        )
    added = [_added_token(id_, name) for id_, name in names.items()]
    return base | {"added_tokens": [*base.get("added_tokens", []), *added]}


def tokenizer_config(*, bos: str, eos: str, pad: str, max_length: int) -> dict[str, object]:
    """tokenizer_config.json by the names of the special tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }


def grown_tokenizer_config(
    tokenizer: TextTokenizer, vocabulary: Vocabulary, stop_id: int, max_length: int
) -> dict[str, object]:
    """Of a grown model that stops at `stop_id`; prompts of the grammar have their BOS, so none is added."""
    is_text = stop_id < vocabulary.num_base
    names = tokenizer_config(
        bos=tokenizer.token(vocabulary.bos_id),
        eos=tokenizer.token(stop_id) if is_text else vocabulary.token_name(stop_id),
        pad=vocabulary.token_name(vocabulary.pad_id),
        max_length=max_length,
    )
    return names | {"add_bos_token": False}


def foreign_tokenizer(base: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The backbone's tokenizer.json with the tokens of another trainer's layout.

    They are ordinary added tokens, as those trainers make them: their decoding reads the names of codes from text, out
    of which special tokens are skipped.
    """
    first = num_entries_of(base)
    fill = [_added_token(id_, f"{_UNUSED_BASE}{id_}|>") for id_ in range(first, layout.num_base)]
    new = [_added_token(layout.num_base + row, token, is_special=False) for row, token in enumerate(layout.tokens)]
    return base | {"added_tokens": [*base.get("added_tokens", []), *fill, *new]}


def without_speech(content: dict[str, Any], num_base: int) -> dict[str, Any]:
    """The tokenizer as it was before its trainer, or `foreign_tokenizer`, added to it."""
    added = [
        token
        for token in content.get("added_tokens", [])
        if token["id"] < num_base and token["content"] != f"{_UNUSED_BASE}{token['id']}|>"
    ]
    return content | {"added_tokens": added}


def num_entries_of(base: dict[str, Any]) -> int:
    """Ids that have a token."""
    return max(_entries(base).values()) + 1


def _entries(base: dict[str, Any]) -> dict[str, int]:
    """Ids of all entries, added ones too."""
    vocab = base["model"].get("vocab")
    if not isinstance(vocab, dict):
        raise ModelError(
            f"the tokenizer is of kind {base['model'].get('type')!r}; expected byte pairs ('BPE'), as those of Llama 3 "
            "and Qwen3 are"
        )
    return vocab | {token["content"]: token["id"] for token in base.get("added_tokens", [])}


def _new_names(vocabulary: Vocabulary, first: int) -> Iterator[tuple[int, str]]:
    for id_ in range(first, vocabulary.num_rows):
        name = vocabulary.token_name(id_)
        kind, _, number = name.partition(":")
        yield id_, f"<|unused_{kind}_{number}|>" if number else name


def _added_token(id_: int, name: str, *, is_special: bool = True) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": name, **plain, "special": is_special}
