"""Samples that `where` leaves out are counted, never read, and in the fingerprint of the plan with their scores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.reader import open_store
from titan_speech.store.score_columns import write_scores


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "demo_data", tmp_path / "demo_data")
    return tmp_path / "demo_data"


def config(store: Path, where: str) -> SpeechConfig:
    words = ["--job.config_file", str(ROOT / "train_configs/demo.toml"), "--stage.from", "", "--data.continue_from", ""]
    for index, source in enumerate(load_config(words).config.data.source):
        words += [f"--data.source.{index}.store", str(store)]
        words += [f"--data.source.{index}.where", where] if source.task == "tts" and where else []
    return load_config(words).config


def test_excluded_samples_are_counted_change_the_plan_and_are_never_read(store: Path) -> None:
    plain, filtered = DataPlan.load(config(store, "")), DataPlan.load(config(store, "duration_sec > 2"))
    spaced = DataPlan.load(config(store, " (duration_sec  >2.0)"))
    assert plain.fingerprint != filtered.fingerprint == spaced.fingerprint
    assert any("excluded by where" in line for line in filtered.left_out())
    assert not any("excluded by where" in line for line in plain.left_out())
    stream = next(i for i, one in enumerate(filtered.streams) if one.config.task == "tts" and one.language == "en")
    documents = filtered.streams[stream].documents[0]
    lengths_N = documents.lengths(0, documents.num_documents)
    code_len_N = documents.part.column("code_len").to_numpy()
    assert (lengths_N[code_len_N <= 100] == 0).all()
    assert (lengths_N[code_len_N > 100] > 0).any()
    other = next(one for one in filtered.streams if one.config.task != "tts" and one.language == "en")
    assert other.counts.num_tokens == next(one for one in plain.streams if one.name == other.name).counts.num_tokens


def test_scores_of_a_store_are_columns_and_their_values_are_in_the_fingerprint(store: Path) -> None:
    first = config(store, "quality >= 0.5")
    with pytest.raises(DataError, match="has no score quality; it has cps, duration_sec"):
        DataPlan.load(first)
    fingerprints = set()
    for seed in range(2):
        random = np.random.default_rng(seed)
        for part in open_store(store).parts:
            write_scores(store, part, {"quality": random.random(part.num_samples).astype(np.float32)}, {})
        fingerprints.add(DataPlan.load(first).fingerprint)
    assert len(fingerprints) == 2
    assert len(open_store(store).manifest.fingerprint) == 16, "scores are no part of the store"
