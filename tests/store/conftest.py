"""A small store and its tokenizer, shared by the tests of stores."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.store_samples import NUM_SAMPLES, write_store, write_tokenizer
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@pytest.fixture(scope="package")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.load(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="package")
def pristine(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "small", tokenizer, num_samples=NUM_SAMPLES)


@pytest.fixture
def store_path(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "small"))
