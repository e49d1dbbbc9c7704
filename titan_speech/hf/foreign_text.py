"""The text tokenizer of a model that another trainer grew.

In: its folder and its parsed tokenizer.json. Out: the tokenizer of the backbone as it was, which ids of documents come
from. What ends a document is a text token: where config.json names the end of speech, that is the model's stop token,
and tokenizer_config.json or the names known by habit say what ends a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from titan_speech.hf.folder import CONFIG_NAME, HFFolder, read_json
from titan_speech.hf.text_tokenizer_folder import write_text_tokenizer
from titan_speech.hf.tokenizer import without_speech
from titan_speech.hf.writer import write_json
from titan_speech.layouts import Layout
from titan_speech.text_tokenizer import JSON_NAME, TEXT_TOKENIZER, TOKENIZER_CONFIG_NAME, TextTokenizer

_NO_LIMIT = 10**12
"""Tokenizers without a limit say 10^30."""


def text_tokenizer(folder: HFFolder, content: dict[str, Any], theirs: Layout, output: Path) -> TextTokenizer:
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
