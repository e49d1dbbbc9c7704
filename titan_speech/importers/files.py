"""The files of an input: which belong to a format, which split is meant, and whether numbered parts are absent.

In: files and folders as given. Out: the files with a format's suffixes, sorted by name, so that every run over the same
input reads them in the same order. Without such a file the error says which format the input looks like.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from titan_speech.errors import DataError
from titan_speech.utils.json_text import read_json_file
from titan_speech.utils.printable import has_controls, one_line
from titan_speech.utils.progress import print_to_stderr

_MAGIC = (
    (0, b"PAR1", "a parquet file", "parquet"),
    (0, b"RIFF", "a wav file", "audio"),
    (0, b"fLaC", "a flac file", "audio"),
    (0, b"OggS", "an ogg file", "audio"),
    (0, b"ID3", "an mp3 file", "audio"),
    (0, b"\x93NUMPY", "a .npy array", "jsonl"),
    (0, b"PK\x03\x04", "a zip archive (.npz)", None),
    (257, b"ustar", "a tar", "webdataset"),
)
_A_STORE = "a token store, which needs no import"
_SUFFIXES = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".tar.gz": "webdataset",
    ".tgz": "webdataset",
    ".mds": "mds",
    ".jsonl": "jsonl",
    ".wav": "audio",
    ".flac": "audio",
    ".ogg": "audio",
    ".opus": "audio",
    ".mp3": "audio",
}


@dataclass(frozen=True)
class InputFile:
    """A file of an input; `name` is its path inside the input, after the input's own name if there are several, and
    unique among all inputs."""

    name: str
    path: Path
    num_bytes: int


def find_files(inputs: Sequence[Path], suffixes: tuple[str, ...], format_name: str) -> list[InputFile]:
    """Find the files of a format, sorted by name.

    Args:
        inputs: files and folders; a file given by itself need not have one of the suffixes.

    Raises:
        DataError: there is no such file, a file is given twice, or a name has line ends or other characters that do
            not print.
    """
    paths = [(root, path) for root in inputs for path in _files_under(root, suffixes)]
    names = [_name_inside(root, path, prefix=f"{root.name}/" if len(inputs) > 1 else "") for root, path in paths]
    if len(set(names)) < len(names):  # such as train/data.jsonl and dev/data.jsonl
        absolute = [os.path.abspath(path) for _, path in paths]
        parent = os.path.commonpath([os.path.dirname(path) for path in absolute])
        names = [os.path.relpath(path, parent) for path in absolute]
    found: dict[str, InputFile] = {}
    for name, (_, path) in zip(names, paths, strict=True):
        if has_controls(name):
            raise DataError(
                f"the name of {one_line(str(path))} has characters that do not print: rename it, or leave it out"
            )
        if name in found:
            raise DataError(f"{path} is given twice, also as {found[name].path}: give it once")
        found[name] = InputFile(name, path, path.stat().st_size)
    if not found:
        names = ", ".join(str(path) for path in inputs)
        hint = format_hint(inputs, format_name)
        raise DataError(f"no {' or '.join(suffixes)} file in {names}, expected for --from {format_name}{hint}")
    return [found[name] for name in sorted(found)]


def _name_inside(root: Path, path: Path, prefix: str) -> str:
    return prefix + (path.relative_to(root).as_posix() if root.is_dir() else path.name)


def _files_under(root: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    if not root.exists():
        raise DataError(f"input {root} does not exist")
    if root.is_file():
        return [root]
    if _is_store(root):
        raise DataError(f"input {root} is {_A_STORE}: train on it as it is, or join it to others with store merge")
    return [path for path in sorted(root.rglob("*")) if path.name.lower().endswith(suffixes) and path.is_file()]


def format_hint(inputs: Sequence[Path], format_name: str) -> str:
    """The end of an error message: which other format the inputs look like; empty if that is not clear."""
    for root in inputs:
        guess = _looks_like(root)
        if guess is not None and guess[1] != format_name:
            what, name = guess
            return f"; {root} looks like {what}" + (f": try --from {name}" if name else "")
    return ""


def _looks_like(path: Path) -> tuple[str, str | None] | None:
    """What a file or folder seems to contain, and the format that reads it."""
    if path.is_file():
        return _file_looks_like(path)
    if _is_store(path):
        return _A_STORE, None
    if _is_mds_index(path / "index.json"):
        return "MosaicML MDS shards", "mds"
    if any(path.glob("*_codes_index.npy")):
        return "the Inworld vectorizer's output", "inworld"
    for file in sorted(path.rglob("*")):
        for suffix, name in _SUFFIXES.items():
            if file.name.lower().endswith(suffix):
                return f"a folder of {suffix} files ({file.relative_to(path)})", name
    return None


def _is_store(folder: Path) -> bool:
    return (folder / "manifest.json").is_file() and any(folder.glob("*/*.tokens"))


def _file_looks_like(path: Path) -> tuple[str, str | None] | None:
    with open(path, "rb") as file:
        head = file.read(512)
    for offset, magic, what, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return what, name
    if _is_mds_index(path):
        return "the index of MosaicML MDS shards", "mds"
    if head.lstrip()[:1] == b"{":
        return "JSON", "jsonl"
    return None


def _is_mds_index(path: Path) -> bool:
    """Whether it is one object with `version` and `shards`; a large file is not read for a guess."""
    if path.name != "index.json" or not path.is_file() or path.stat().st_size > 64 << 20:
        return False
    try:
        content = read_json_file(path)
    except ValueError:
        return False
    return isinstance(content, dict) and "shards" in content


def describe_not_utf8(error: UnicodeDecodeError) -> str:
    """The end of a sentence about a text file: why it is not UTF-8, and how to make it so."""
    if bytes(error.object[:2]) in (b"\xff\xfe", b"\xfe\xff"):
        return "is UTF-16, expected UTF-8: convert it, iconv -f UTF-16 -t UTF-8 FILE > NEW"
    byte = f"byte {error.object[error.start]:#04x} at position {error.start:,}"
    return (
        f"is not UTF-8 ({byte}): convert it from the encoding it was saved in, such as iconv -f LATIN1 -t UTF-8 "
        "FILE > NEW (WINDOWS-1252 on Windows)"
    )


def chosen_split(root: Path, splits: Sequence[str], asked: str | None) -> str:
    """The split to import: the only one, or the one the user asked for.

    Raises:
        DataError: there are several and none was chosen (training and validation data never go into one store by
            accident), or the chosen one does not exist.
    """
    if asked is None and len(splits) == 1:
        return splits[0]
    if asked is None or asked not in splits:
        known = ", ".join(splits)
        problem = f"no split {asked}, expected one of {known}" if asked is not None else f"several splits ({known})"
        raise DataError(f"{root} has {problem}: choose one with --split")
    return asked


def warn_absent_parts(where: str, what: str, found: Collection[int], expected: int) -> None:
    """Warn if some of the parts numbered from 0 are absent.

    An interrupted download looks like a smaller corpus; but it may also be meant, so this is not an error.
    """
    absent = [number for number in range(expected) if number not in found]
    if absent:
        print_to_stderr(
            f"warning: {where} has {len(found)} of {expected} {what}: the first that is absent is {absent[0]}; only "
            "those that are present are imported"
        )
