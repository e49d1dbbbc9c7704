"""A small input, a tokenizer and the store built of them, shared by the tests of `store build`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.store_samples import write_tokenizer
from tests.support.vectorizer_output import NUM_SAMPLES, build_request, spoken, write_inworld
from titan_speech.importers.build import build_store


@pytest.fixture(scope="package")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="package")
def vectorized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inworld(tmp_path_factory.mktemp("input") / "vectorized", spoken(NUM_SAMPLES))


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory, vectorized: Path, tokenizer_path: Path) -> Path:
    """A store built by one process, in several units."""
    output = tmp_path_factory.mktemp("built") / "store"
    build_store(build_request(vectorized, output, tokenizer_path))
    return output
