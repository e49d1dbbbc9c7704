"""titan_speech.json: what transformers has no place for in a model folder.

In: a checkpoint at export. Out: the fingerprints and the codec that decoding must agree with, and back.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import read_commit
from titan_speech.errors import ModelError
from titan_speech.hf.folder import read_json
from titan_speech.hf.writer import write_json

FILE_NAME = "titan_speech.json"


@dataclass(frozen=True)
class ModelRecord:
    """Goes with the weights."""

    step: int
    vocabulary: str
    """Fingerprint of the vocabulary."""
    grammar: str
    """Fingerprint of the prompt grammar."""
    codecs: tuple[str, ...]
    """Hashes of the codecs whose codes it was trained on; empty where the stores were not at hand."""

    weights: str = ""
    """Fingerprint of the checkpoint's weights: a run that went back has another step N than before."""

    def write(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, asdict(self))


def weights_fingerprint(checkpoint: Path) -> str:
    """Of a complete checkpoint, from the checksums in its marker; losing its optimizer does not change it."""
    commit = read_commit(checkpoint)
    files = commit.files if commit is not None else ()
    weights = sorted((file.name, file.num_bytes, file.xxh3_128) for file in files if file.role == "model")
    return hashlib.sha256(repr(weights).encode()).hexdigest()[:16]


def read_record(folder: Path) -> ModelRecord:
    """The record of an exported folder.

    Raises:
        ModelError: the folder was not written by `titan-speech model export`.
    """
    content = read_json(folder / FILE_NAME, "a folder written by `titan-speech model export`")
    try:
        codecs, weights = tuple(content["codecs"]), content.get("weights", "")
        return ModelRecord(content["step"], content["vocabulary"], content["grammar"], codecs, weights)
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / FILE_NAME} is damaged ({error!r}); export the model again") from error
