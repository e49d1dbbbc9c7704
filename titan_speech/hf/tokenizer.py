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
from titan_speech.vocabulary import Vocabulary


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


def num_entries_of(base: dict[str, Any]) -> int:
    """Ids that have a token."""
    return max(_entries(base).values()) + 1


def _entries(base: dict[str, Any]) -> dict[str, int]:
    """Ids of all entries, added ones too."""
    entries = dict(base["model"]["vocab"])
    return entries | {token["content"]: token["id"] for token in base.get("added_tokens", [])}


def _new_names(vocabulary: Vocabulary, first: int) -> Iterator[tuple[int, str]]:
    for id_ in range(first, vocabulary.num_rows):
        name = vocabulary.token_name(id_)
        kind, _, number = name.partition(":")
        yield id_, f"<|unused_{kind}_{number}|>" if number else name


def _added_token(id_: int, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": name, **plain, "special": True}
