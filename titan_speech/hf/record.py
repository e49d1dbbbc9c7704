"""titan_speech.json: what transformers has no place for in a model folder.

In: a checkpoint at export. Out: the fingerprints and the codec that decoding must agree with, and back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

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

    def write(self, folder: Path) -> None:
        write_json(folder / FILE_NAME, asdict(self))


def read_record(folder: Path) -> ModelRecord:
    """The record of an exported folder.

    Raises:
        ModelError: the folder was not written by `titan-speech model export`.
    """
    content = read_json(folder / FILE_NAME, "a folder written by `titan-speech model export`")
    try:
        codecs = tuple(content["codecs"])
        return ModelRecord(content["step"], content["vocabulary"], content["grammar"], codecs)
    except (KeyError, TypeError) as error:
        raise ModelError(f"{folder / FILE_NAME} is damaged ({error!r}); export the model again") from error
