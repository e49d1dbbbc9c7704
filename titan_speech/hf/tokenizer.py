"""Tokenizer files of a model folder, and ids of special tokens in its configuration.

In: a backbone's tokenizer.json and the vocabulary, or the tokenizer.json of a model another trainer extended. Out:

    tokenizer.json           text has the backbone's ids, each speech code and special token the id of its name
    tokenizer_config.json    special tokens by name; an export adds the prompt grammar as a chat template
    text_tokenizer/          the backbone's own tokenizer with recipe.json, which `TextTokenizer.load` reads to the
                             same fingerprint, whichever file named its document tokens before
    config.json, generation_config.json   with eos_token_id and its like (an id, a list of ids or null) renumbered
                             when rows are reordered; a token that the other vocabulary lacks is left out

Rows that the backbone's tokenizer leaves unused and the padding at the end get names too: the `tokenizers` library
numbers added tokens without gaps, whatever ids a file gives them, so a gap would shift every token after it.

Shapes: V rows of the vocabulary a file was written for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.hf.config_json import read_json, write_json
from titan_speech.hf.model_folder import HFFolder
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
from titan_speech.utils.files import write_atomically

_ID_ENDING = "_token_id"
_UNUSED_BASE = "<|unused_base_"
_NO_LIMIT = 10**12
"""Tokenizers without a limit of their length name 10^30."""


def renumber_ids(content: Mapping[str, Any], rows_V: NDArray[np.int64], file: Path) -> dict[str, Any]:
    """Replace the ids of special tokens by those of another vocabulary.

    Args:
        content: of config.json or generation_config.json.
        rows_V: for each row of its vocabulary the row of the other, or -1.
        file: where it was read from, for messages.

    Raises:
        ModelError: an id is not a row of the vocabulary, or not an id at all.
    """
    renumbered: dict[str, Any] = {}
    for key, value in content.items():
        if not key.endswith(_ID_ENDING) or value is None:
            renumbered[key] = value
            continue
        ids = [_renumber(id_, rows_V, f"{file}: {key}") for id_ in (value if isinstance(value, list) else [value])]
        known = [id_ for id_ in ids if id_ != NO_ROW]
        if known:
            renumbered[key] = known if isinstance(value, list) else known[0]
    return renumbered


def _renumber(id_: object, rows_V: NDArray[np.int64], where: str) -> int:
    if not isinstance(id_, int) or isinstance(id_, bool):
        raise ModelError(f"{where} is {id_!r}, expected the id of a token")
    if id_ == -1:  # some exporters write it where there is no such token
        return NO_ROW
    if not 0 <= id_ < len(rows_V):
        raise ModelError(f"{where} is {id_}, which is not a row of its vocabulary: expected 0..{len(rows_V) - 1}")
    return int(rows_V[id_])


def write_configs(
    folder: HFFolder, output: Path, rows_V: NDArray[np.int64], *, num_rows: int, pad_id: int
) -> dict[str, Any]:
    """Write config.json and generation_config.json of a model whose rows are reordered.

    Args:
        folder: the model as it is.
        output: the folder to write to.
        rows_V: for each row of the model the row it becomes, or -1.
        num_rows: of the new vocabulary.
        pad_id: of the new vocabulary; each side has a padding token of its own.

    Returns:
        The content of the new config.json.

    Raises:
        ModelError: an id in them is not a row.
    """
    config = renumber_ids(folder.config, rows_V, folder.path / CONFIG_NAME)
    config |= {"vocab_size": num_rows, "pad_token_id": pad_id}
    file = folder.path / GENERATION_NAME
    if file.is_file():
        decoding = renumber_ids(read_json(file, "a model folder"), rows_V, file)
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
    """Write a tokenizer folder of its own; `source` is the file that `tokenizer` was loaded from."""
    folder.mkdir(parents=True)
    write_atomically(folder / JSON_NAME, tokenizer_json(source))
    recipe = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "num_base": tokenizer.num_base}
    markup = {"markup": list(tokenizer.markup)} if tokenizer.markup else {}
    write_json(folder / RECIPE_NAME, recipe | markup)


def extended_tokenizer(base: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of a backbone's tokenizer.json with a name for every row of the extended vocabulary.

    Raises:
        ModelError: the tokenizer has speech tokens already, or more entries than the backbone has rows.
    """
    known = _ids_of_entries(base)
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
    """tokenizer_config.json of a model with an extended vocabulary that stops at `stop_id`.

    Prompt templates have their own BOS, so the tokenizer adds none.
    """
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

    They are added tokens that are not special, as those trainers write them: their decoding reads the names of codes
    from text, from which special tokens are left out.
    """
    first = num_entries_of(base)
    fill = [_added_token(id_, f"{_UNUSED_BASE}{id_}|>") for id_ in range(first, layout.num_base)]
    new = [_added_token(layout.num_base + row, token, is_special=False) for row, token in enumerate(layout.tokens)]
    return base | {"added_tokens": [*base.get("added_tokens", []), *fill, *new]}


def remove_speech_tokens(content: dict[str, Any], num_base: int) -> dict[str, Any]:
    """The content of tokenizer.json before its trainer, or `foreign_tokenizer`, added tokens."""
    added = [
        token
        for token in content.get("added_tokens", [])
        if token["id"] < num_base and token["content"] != f"{_UNUSED_BASE}{token['id']}|>"
    ]
    return content | {"added_tokens": added}


def num_entries_of(base: dict[str, Any]) -> int:
    """Number of ids up to the highest that has a token."""
    return max(_ids_of_entries(base).values()) + 1


def _ids_of_entries(base: dict[str, Any]) -> dict[str, int]:
    """Ids of all entries by name, added tokens included."""
    vocab = base["model"].get("vocab")
    if not isinstance(vocab, dict):
        raise ModelError(
            f"the tokenizer is of type {base['model'].get('type')!r}; expected byte pairs ('BPE'), as those of Llama 3 "
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


def recover_text_tokenizer(
    folder: HFFolder, content: dict[str, Any], theirs: VocabularyLayout, output: Path
) -> TextTokenizer:
    """The backbone's tokenizer out of the one that another trainer extended.

    A document ends with a text token: where config.json names the end of speech, that is the model's stop token, and
    tokenizer_config.json, or names known by convention, say what ends a text.

    Args:
        folder: the model of the other trainer.
        content: of its tokenizer.json.
        theirs: the layout that content has.
        output: gets text_tokenizer/; the files it is read from stay in `output` too, for the caller to replace.
    """
    write_json(output / JSON_NAME, remove_speech_tokens(content, theirs.num_base))
    write_json(output / CONFIG_NAME, _document_ids(folder.config, theirs.num_base) | {"vocab_size": theirs.num_base})
    write_json(output / TOKENIZER_CONFIG_NAME, _document_tokens(_tokenizer_config(folder), frozenset(theirs.tokens)))
    tokenizer = TextTokenizer.load(output)
    write_text_tokenizer(tokenizer, output / JSON_NAME, output / TEXT_TOKENIZER)
    return tokenizer


def max_length(folder: HFFolder) -> int:
    """Length in tokens at which the tokenizer truncates, or the positions the model has."""
    found = _tokenizer_config(folder).get("model_max_length")
    return found if isinstance(found, int) and found < _NO_LIMIT else folder.shape.max_positions


def _tokenizer_config(folder: HFFolder) -> dict[str, Any]:
    file = folder.path / TOKENIZER_CONFIG_NAME
    return read_json(file, "a model folder") if file.is_file() else {}


def _document_ids(config: dict[str, Any], num_base: int) -> dict[str, int]:
    """The ids of BOS and EOS; of a list, the first that is a text token."""
    found: dict[str, int] = {}
    for key in ("bos_token_id", "eos_token_id"):
        value = config.get(key)
        for id_ in reversed(value if isinstance(value, list) else [value]):
            if isinstance(id_, int) and 0 <= id_ < num_base:
                found[key] = id_
    return found


def _document_tokens(names: dict[str, Any], speech: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in ("bos_token", "eos_token"):
        value = names.get(key)
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str) and token not in speech:
            found[key] = token
    return found
