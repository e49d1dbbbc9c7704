"""Ids of special tokens in config.json and generation_config.json, when a model's rows move to another vocabulary.

In: a parsed file (eos_token_id and its like: an id, a list of ids or null) and where each row goes. Out: the same
content with the ids the tokens have there. A token that is not there is left out: what stands for it instead is for the
caller to say.

Shapes: R rows of the vocabulary the content speaks of.

A tokenizer folder of its own: tokenizer.json with the recipe that says what it needs beside it.

In: a loaded text tokenizer and its file. Out: a folder that `TextTokenizer.load` reads to the same fingerprint,
whatever files said its document tokens before (config.json, tokenizer_config.json, ...).

The backbone's tokenizer.json with a name for every row the vocabulary grew by.

In: the tokenizer.json of the backbone and the vocabulary. Out: one that gives the backbone's ids for text, and the id
of each speech code and special for its name. Rows the backbone's tokenizer leaves unused and the padding at the end get
names too: the `tokenizers` library numbers added tokens without gaps, whatever ids a file gives them, so a hole would
shift every token after it.

The text tokenizer of a model that another trainer grew.

In: its folder and its parsed tokenizer.json. Out: the tokenizer of the backbone as it was, which ids of documents come
from. What ends a document is a text token: where config.json names the end of speech, that is the model's stop token,
and tokenizer_config.json or the names known by habit say what ends a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.hf.model_folder import HFFolder, read_json
from titan_speech.hf.safetensors_writer import write_json
from titan_speech.model.exported_files import CONFIG_NAME, GENERATION_NAME
from titan_speech.tokenization.foreign_layouts import NO_ROW, VocabularyLayout
from titan_speech.tokenization.text_tokenizer import (
    JSON_NAME,
    RECIPE_NAME,
    TEXT_TOKENIZER,
    TOKENIZER_CONFIG_NAME,
    TextTokenizer,
    tokenizer_json,
)
from titan_speech.tokenization.vocabulary import Vocabulary

_ENDING = "_token_id"


def moved_ids(content: Mapping[str, Any], rows_R: NDArray[np.int64], file: Path) -> dict[str, Any]:
    """`content` with ids of special tokens moved by `rows_R`, -1 being a row without a counterpart.

    Raises:
        ModelError: an id is no row of the vocabulary, or no id at all.
    """
    moved: dict[str, Any] = {}
    for key, value in content.items():
        if not key.endswith(_ENDING) or value is None:
            moved[key] = value
            continue
        ids = [_moved(id_, rows_R, f"{file}: {key}") for id_ in (value if isinstance(value, list) else [value])]
        known = [id_ for id_ in ids if id_ != NO_ROW]
        if known:
            moved[key] = known if isinstance(value, list) else known[0]
    return moved


def _moved(id_: object, rows_R: NDArray[np.int64], where: str) -> int:
    if not isinstance(id_, int) or isinstance(id_, bool):
        raise ModelError(f"{where} is {id_!r}, expected the id of a token")
    if id_ == -1:  # how some exporters say that there is none
        return NO_ROW
    if not 0 <= id_ < len(rows_R):
        raise ModelError(f"{where} is {id_}, which is no row of its vocabulary: expected 0..{len(rows_R) - 1}")
    return int(rows_R[id_])


def write_configs(
    folder: HFFolder, output: Path, rows_R: NDArray[np.int64], *, num_rows: int, pad_id: int
) -> dict[str, Any]:
    """config.json and generation_config.json of a folder whose rows go to `rows_R` of `num_rows`; the first of the two.

    `pad_id`: each side has a token of its own for padding.

    Raises:
        ModelError: an id in them is no row.
    """
    config = moved_ids(folder.config, rows_R, folder.path / CONFIG_NAME)
    config |= {"vocab_size": num_rows, "pad_token_id": pad_id}
    file = folder.path / GENERATION_NAME
    if file.is_file():
        decoding = moved_ids(read_json(file, "a model folder"), rows_R, file)
    else:
        decoding = {key: config[key] for key in ("bos_token_id", "eos_token_id") if config.get(key) is not None}
    write_json(output / CONFIG_NAME, config)
    write_json(output / GENERATION_NAME, decoding | {"pad_token_id": pad_id})
    return config


def first_id(content: Mapping[str, Any], key: str) -> int | None:
    """The id, or the first of the list, under `key`."""
    value = content.get(key)
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) else None


def write_text_tokenizer(tokenizer: TextTokenizer, source: Path, folder: Path) -> None:
    """`source` is the file `tokenizer` was loaded from."""
    folder.mkdir(parents=True)
    (folder / JSON_NAME).write_text(tokenizer_json(source), encoding="utf-8")
    write_json(
        folder / RECIPE_NAME,
        {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "num_base": tokenizer.num_base,
        },
    )


_UNUSED_BASE = "<|unused_base_"


def extended_tokenizer(base: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
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


def extended_tokenizer_config(
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


def foreign_tokenizer(base: dict[str, Any], layout: VocabularyLayout) -> dict[str, Any]:
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


_NO_LIMIT = 10**12
"""Tokenizers without a limit say 10^30."""


def text_tokenizer(folder: HFFolder, content: dict[str, Any], theirs: VocabularyLayout, output: Path) -> TextTokenizer:
    """The backbone's, written to `output`/text_tokenizer; files it is read from stay in `output`, to be replaced."""
    write_json(output / JSON_NAME, without_speech(content, theirs.num_base))
    write_json(output / CONFIG_NAME, _text_ids(folder.config, theirs.num_base) | {"vocab_size": theirs.num_base})
    write_json(output / TOKENIZER_CONFIG_NAME, _text_names(_tokenizer_config(folder), frozenset(theirs.tokens)))
    tokenizer = TextTokenizer.load(output)
    write_text_tokenizer(tokenizer, output / JSON_NAME, output / TEXT_TOKENIZER)
    return tokenizer


def max_length(folder: HFFolder) -> int:
    """Tokens its tokenizer cuts at, or the positions the model has."""
    found = _tokenizer_config(folder).get("model_max_length")
    return found if isinstance(found, int) and found < _NO_LIMIT else folder.shape.max_positions


def _tokenizer_config(folder: HFFolder) -> dict[str, Any]:
    file = folder.path / TOKENIZER_CONFIG_NAME
    return read_json(file, "a model folder") if file.is_file() else {}


def _text_ids(config: dict[str, Any], num_base: int) -> dict[str, int]:
    """Of the ids that open and close, the first that is of text."""
    found: dict[str, int] = {}
    for key in ("bos_token_id", "eos_token_id"):
        value = config.get(key)
        for id_ in reversed(value if isinstance(value, list) else [value]):
            if isinstance(id_, int) and 0 <= id_ < num_base:
                found[key] = id_
    return found


def _text_names(names: dict[str, Any], speech: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in ("bos_token", "eos_token"):
        value = names.get(key)
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str) and token not in speech:
            found[key] = token
    return found
