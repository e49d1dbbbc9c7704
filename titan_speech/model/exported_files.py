"""The files of a model that was exported as a Hugging Face folder, and no others.

In: such a folder. Out: the names that may leave this machine, so that publishing and uploading share one allow-list and
never send what only happens to be stored there (a `.env`, notes, a cache) or what a symbolic link points to.

The names here are what hf/export.py writes; a test exports a model and compares. The cost is one stat per file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from titan_speech.tokenization.text_tokenizer import JSON_NAME, RECIPE_NAME, TEXT_TOKENIZER, TOKENIZER_CONFIG_NAME

CONFIG_NAME, GENERATION_NAME = "config.json", "generation_config.json"
INDEX_NAME, SINGLE_NAME = "model.safetensors.index.json", "model.safetensors"
CARD_NAME = "README.md"
MODEL_RECORD_NAME = "titan_speech.json"
"""Fingerprints that decoding must agree with, the weights' among them."""
EXPANSION_NAME = "expansion.json"
"""How the rows of the speech vocabulary were made."""

_NAMES = frozenset(
    (
        CONFIG_NAME,
        GENERATION_NAME,
        SINGLE_NAME,
        INDEX_NAME,
        JSON_NAME,
        TOKENIZER_CONFIG_NAME,
        f"{TEXT_TOKENIZER}/{JSON_NAME}",
        f"{TEXT_TOKENIZER}/{RECIPE_NAME}",
        CARD_NAME,
        MODEL_RECORD_NAME,
        EXPANSION_NAME,
    )
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def shard_name(number: int, count: int) -> str:
    """File name of one of several files of weights; `number` counts from 1."""
    return f"model-{number:05d}-of-{count:05d}.safetensors"


@dataclass(frozen=True)
class ExportedFiles:
    """What a folder holds; names are relative to it, with `/` between their parts, sorted."""

    files: tuple[str, ...]
    """Regular files of the export: what may be sent."""
    links: tuple[str, ...]
    """Names of the export that are symbolic links, or not regular files; the folder is not a sound export."""
    others: tuple[str, ...]
    """Files and folders that an export does not consist of; not searched further, never sent."""


def find_exported_files(folder: Path) -> ExportedFiles:
    """List a folder without following a symbolic link inside it.

    Raises:
        OSError: the folder cannot be read.
    """
    files: list[str] = []
    links: list[str] = []
    others: list[str] = []
    for path in _entries(folder):
        name = path.relative_to(folder).as_posix()
        if name != TEXT_TOKENIZER and name not in _NAMES and not _SHARD.fullmatch(name):
            others.append(name)
        elif path.is_symlink() or not path.is_file():
            links.append(name)
        else:
            files.append(name)
    return ExportedFiles(tuple(sorted(files)), tuple(sorted(links)), tuple(sorted(others)))


def _entries(folder: Path) -> Iterator[Path]:
    """Entries of the folder and of its text_tokenizer/, the one subfolder an export has."""
    for path in folder.iterdir():
        if path.name == TEXT_TOKENIZER and path.is_dir() and not path.is_symlink():
            yield from path.iterdir()
        else:
            yield path


EVALUATION_FOLDER = "evaluation"
"""Folder in a run folder: step-N.md has what was measured of a step, for the card of its export."""
