"""What a model is to scorers: a description that can be sent to another process, and loaded there.

In: a folder with weights, an id of the Hugging Face Hub whose files are in the local cache, or the name of a package
with its weights inside. Out: `AudioModel`. Nothing is downloaded: an evaluation that fetches a model on its own would
change when the hub does; the message says which command downloads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from titan_speech.errors import ModelError

Answer = Any
"""Text, an embedding or numbers: what a loaded model gives for one waveform."""
Listen = Callable[[NDArray[np.float32], str], Answer]
"""A loaded model: waveform at 16 kHz and language in, answer out."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class AudioModel(Protocol):
    """A description of a model; pickles."""

    @property
    def name(self) -> str:
        """For people, such as whisper-base."""
        ...

    @property
    def version(self) -> str:
        """Changes with weights, library and settings."""
        ...

    def load(self) -> Listen:
        """Load the weights, in the process that will use them."""
        ...


@dataclass(frozen=True)
class Failure:
    """Why a model has no answer for one waveform."""

    reason: str


def model_folder(name: str) -> Path:
    """The folder of a model.

    Args:
        name: a folder, or ORG/NAME of a model in the local cache of the Hugging Face Hub.

    Raises:
        ModelError: there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"found no folder {name!r}; expected the folder of a model, or ORG/NAME on the Hugging Face Hub"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ModelError(f"{name} is on the Hugging Face Hub, which needs: pip install 'titan-speech[hf]'") from error
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"{name} is not in the local cache, and evaluation downloads nothing: hf download {name}, or give a folder"
        ) from error


@cache
def weights_digest(*files: Path) -> str:
    """16 hex digits of the content of files, in the order of their names; read once per process."""
    digest = xxhash.xxh3_64()
    for file in sorted(files):
        digest.update(file.name.encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
