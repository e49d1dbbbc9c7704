"""Where speech is written: looked at before a model is loaded, and written whole.

In: the paths a user gave. Out: an error at once if one of them cannot be written or is there already, and later the
files. Decoding takes minutes; what was asked for in vain should be said before them.
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
from titan_speech.codec.wav import write_wav
from titan_speech.errors import DataError


def wav_names(path: Path, count: int = 1) -> list[Path]:
    """`--output`, or as many names made from it.

    Raises:
        DataError: it is no name of a wav file.
    """
    if path.suffix != ".wav":
        raise DataError(f"--output {path}: expected a name that ends in .wav")
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i}.wav") for i in range(count)]


def check_outputs(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Nothing is written, and no folder made.

    Raises:
        DataError: a path is no name of a file that can be written, or is taken.
    """
    for path in paths:
        if path.is_dir():
            raise DataError(f"--output {path} is a folder; give the name of a file in it")
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists already; choose another --output, or give --overwrite")
        with _told(path), tempfile.TemporaryFile(dir=_first_that_exists(path.parent)):
            pass


def _first_that_exists(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())


def write_speech(path: Path, codec: Codec, codes_F: NDArray[np.uint16]) -> None:
    """Codes as a wav file, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    wav_T = codec.decode(codes_F)
    with _whole(path) as partial:
        write_wav(partial, wav_T, codec.sample_rate)


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """A JSON file, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    with _whole(path) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Another name to write under, renamed at the end: no half file is left behind."""
    partial = path.with_name(path.name + ".partial")
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}; choose another --output") from error
