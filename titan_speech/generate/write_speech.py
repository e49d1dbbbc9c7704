"""Output files of generated speech: checked before a model is loaded, written completely or not at all.

In: the paths a user gave. Out: an error at once if one of them cannot be written or exists already, since decoding
takes minutes; later the files.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from titan_speech.codec.base import Codec
from titan_speech.codec.wav import wav_bytes
from titan_speech.errors import DataError
from titan_speech.utils.files import write_atomically


def wav_names(path: Path, count: int = 1) -> list[Path]:
    """The wav files to write: `--output` itself, or NAME-0.wav, NAME-1.wav, ... for several.

    Raises:
        DataError: the path does not end in .wav.
    """
    if path.suffix != ".wav":
        raise DataError(f"--output {path}: expected a name that ends in .wav")
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i}.wav") for i in range(count)]


def check_outputs(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Check that files can be written, without creating a file or a folder.

    Raises:
        DataError: a path is a folder, exists already, or cannot be written.
    """
    for path in paths:
        if path.is_dir():
            raise DataError(f"--output {path} is a folder; give the name of a file in it")
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists already; choose another --output, or give --overwrite")
        existing = next(parent for parent in (path.parent, *path.absolute().parents) if parent.exists())
        with _output_errors(path), tempfile.TemporaryFile(dir=existing):
            pass


def write_speech(path: Path, codec: Codec, codes_F: NDArray[np.uint16]) -> None:
    """Decode codes and write them as a wav file.

    Raises:
        DataError: the file cannot be written.
    """
    content = wav_bytes(codec.decode(codes_F), codec.sample_rate)
    with _output_errors(path):
        write_atomically(path, content)


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write a JSON file.

    Raises:
        DataError: the file cannot be written.
    """
    with _output_errors(path):
        write_atomically(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a DataError that names the output."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; choose another --output") from error
