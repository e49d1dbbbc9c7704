"""The base of a LoRA run: the weights its adapter belongs to, known by their fingerprint.

In: a checkpoint (.../step-N) or a Hugging Face folder. Out: its fingerprint, which every checkpoint of the adapter
records; and of several places the one with the recorded fingerprint, so that a base may move but never be mistaken for
another. A checkpoint's fingerprint is that of the checksums in its marker, one small file to read; a Hugging Face
folder's weights are read in full, 5 GB per second and core from memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from titan_speech.checkpoint.commit import FileRecord, committed_at, file_record, read_commit, step_from_name
from titan_speech.errors import CheckpointError


@dataclass(frozen=True)
class Base:
    """Where the frozen weights of a LoRA run are."""

    path: Path
    fingerprint: str

    @property
    def is_hf(self) -> bool:
        """A Hugging Face folder, else a checkpoint."""
        return step_from_name(self.path.name) is None


def fingerprint_of_weights(files: Iterable[FileRecord]) -> str:
    """Fingerprint of the weights among the files of a marker, from their checksums."""
    weights = sorted((file.name, file.num_bytes, file.xxh3_128) for file in files if file.role == "model")
    return hashlib.sha256(repr(weights).encode()).hexdigest()[:16]


def weights_fingerprint(checkpoint: Path) -> str:
    """Fingerprint of a complete checkpoint's weights, from the checksums in its marker; removing the optimizer state
    does not change it."""
    commit = read_commit(checkpoint)
    return fingerprint_of_weights(commit.files if commit is not None else ())


def open_base(path: Path) -> Base:
    """The base at a checkpoint (.../step-N) or a Hugging Face folder.

    Raises:
        CheckpointError: there is neither.
    """
    if step_from_name(path.name) is not None:
        if read_commit(path) is None:
            raise CheckpointError(
                f"{path} has no commit marker, so it cannot be distinguished from another base later; `titan-speech "
                f"checkpoint mark {path}` writes one"
            )
        return Base(path, weights_fingerprint(path))
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path} is no base: expected a checkpoint (.../step-N) or a Hugging Face model folder")
    return Base(path, fingerprint_of_weights(file_record(file, file.name, "model") for file in files))


def find_base(fingerprint: str, places: Iterable[Path], whose: str) -> Base:
    """The base with a fingerprint.

    Args:
        fingerprint: of the weights that the adapter was trained with.
        places: checkpoints, run folders and Hugging Face folders where it may be; the first that fits is taken.
        whose: the adapter, for the message.

    Raises:
        CheckpointError: it is in no place; the message names what each place has.
    """
    seen = []
    for place in dict.fromkeys(places):
        runs = committed_at(place)
        for path in [one.path for one in runs] or [place]:
            try:
                base = open_base(path)
            except CheckpointError:
                seen.append(f"{path}: nothing that is a base")
                continue
            if base.fingerprint == fingerprint:
                return base
            seen.append(f"{path}: {base.fingerprint}, another one")
    raise CheckpointError(
        f"{whose} belongs to the base with fingerprint {fingerprint}, which is not where it was looked for "
        f"({'; '.join(seen) or 'no place is known'}). An adapter changes the weights of its own base only: restore the "
        "base, or say where it is"
    )
