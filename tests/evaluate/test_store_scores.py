"""A store is scored once, by the codec it was made with, and what scorers of others wrote stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import ROOT
from tests.support.store_samples import write_store, write_tokenizer
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.errors import DataError
from titan_speech.evaluate.scorers.measures import CodeScorer
from titan_speech.evaluate.store_scores import score_store
from titan_speech.exit_codes import EXIT_BAD_INPUT
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import open_store
from titan_speech.store.score_columns import sample_columns, scorers_of, write_scores
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "demo_data", tmp_path / "demo_data")
    return tmp_path / "demo_data"


def test_a_store_is_scored_once_and_other_columns_stay(tmp_path: Path) -> None:
    codec, scorers = load_codec("embedded"), [CodeScorer()]
    tokenizer = TextTokenizer.load(write_tokenizer(tmp_path / "tokenizer"))
    made_by = CodecInfo(codec.name, codec.codec_hash)
    folder = write_store(tmp_path / "store", tokenizer, num_samples=6, codec=made_by)
    part = next(part for part in open_store(folder).parts if part.kind == "speech")
    write_scores(folder, part, {"mine": np.ones(part.num_samples, np.float32)}, {})
    scored = {one.name: one for one in score_store(folder, codec, scorers)}
    assert scored[part.name].num_values["repeats"] == part.num_samples
    assert all(not one.num_values for one in score_store(folder, codec, scorers)), "nothing is scored twice"
    assert scorers_of(part) == {metric.name: "codes rules 1" for metric in CodeScorer.metrics}
    scorers[0].version = "rules 2"
    again = {one.name: one for one in score_store(folder, codec, scorers)}
    assert again[part.name].other_scorers["repeats"] == "codes rules 1", "which is said, and nothing is overwritten"
    found = sample_columns(part, ["mine", "repeats"])
    assert np.isfinite(found["repeats"]).all()
    assert (found["mine"] == 1).all()


def test_a_scorer_that_fails_on_all_of_a_part_leaves_it_to_be_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, scorers = load_codec("embedded"), [CodeScorer()]
    tokenizer = TextTokenizer.load(write_tokenizer(tmp_path / "tokenizer"))
    folder = write_store(tmp_path / "store", tokenizer, num_samples=6, codec=CodecInfo(codec.name, codec.codec_hash))
    with monkeypatch.context() as broken:
        broken.setattr("titan_speech.evaluate.scorers.measures.measure_codes", lambda _: 1 / 0)
        with pytest.raises(DataError, match=r"of no sample of .* could be computed: codes failed: ZeroDivisionError"):
            score_store(folder, codec, scorers)
    assert not (folder / "scores").exists()
    assert all(one.num_values["repeats"] == one.num_samples for one in score_store(folder, codec, scorers))


def test_scores_are_of_the_codec_of_the_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "score", str(store), "--datasets", "nothing"]) == EXIT_BAD_INPUT
    assert "has no speech of nothing" in capsys.readouterr().err
