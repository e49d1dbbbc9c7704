"""Ids of special tokens in config.json and generation_config.json, when a model's rows move to another vocabulary.

In: a parsed file (eos_token_id and its like: an id, a list of ids or null) and where each row goes. Out: the same
content with the ids the tokens have there. A token that is not there is left out: what stands for it instead is for the
caller to say.

Shapes: R rows of the vocabulary the content speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titan_speech.errors import ModelError
from titan_speech.hf.folder import CONFIG_NAME, HFFolder, read_json
from titan_speech.hf.writer import write_json
from titan_speech.layouts import NO_ROW

GENERATION_NAME = "generation_config.json"
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
