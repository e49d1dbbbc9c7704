"""Conditions on samples: parsed and never run, counted, in the plan's fingerprint, and absent without `where`."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.runs import ROOT
from tests.support.store_samples import write_store, write_tokenizer
from titan_speech.cli.main import main
from titan_speech.codec.load import load_codec
from titan_speech.config.sample_conditions import parse_where
from titan_speech.config.schema import SpeechConfig
from titan_speech.data.plan import DataPlan
from titan_speech.errors import ConfigError, DataError
from titan_speech.evaluate.scorers.measures import CodeScorer
from titan_speech.evaluate.store_scores import score_store
from titan_speech.exit_codes import EXIT_BAD_INPUT
from titan_speech.preflight.config_checks import load_config
from titan_speech.store.manifest import CodecInfo
from titan_speech.store.reader import open_store
from titan_speech.store.score_columns import read_scores, sample_columns, scorers_of, write_scores
from titan_speech.tokenization.text_tokenizer import TextTokenizer

COLUMNS = {
    "dnsmos": np.array([3.0, 3.5, np.nan, 2.0], np.float32),
    "cps": np.array([10.0, 30.0, 12.0, 26.0], np.float32),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dnsmos >= 3", [1, 1, 0, 0]),
        ("3 <= dnsmos", [1, 1, 0, 0]),
        ("dnsmos != 3", [0, 1, 0, 1]),
        ("dnsmos >= 2.5 and cps < 25", [1, 0, 0, 0]),
        ("dnsmos < 2.5 or cps < 25", [1, 0, 1, 1]),
        ("not cps < 25", [0, 1, 0, 1]),
        ("not (cps < 25 or dnsmos > 3) and cps > -1e3", [0, 0, 0, 1]),
        ("cps < 11 or cps > 20 and dnsmos > 3", [1, 1, 0, 0]),
    ],
)
def test_a_condition_holds_where_it_says(text: str, expected: list[int]) -> None:
    condition = parse_where(text)
    assert condition.holds(COLUMNS).astype(int).tolist() == expected
    assert parse_where(condition.text).text == condition.text


@pytest.mark.parametrize(
    "text",
    [
        "", "dnsmos", "dnsmos >", "dnsmos > cps", "3 > 2", "dnsmos = 3", "dnsmos > 3 cps < 2", "(dnsmos > 3", "and",
        "dnsmos > 3)", "__import__('os')", "dnsmos.real > 3", "dnsmos > 3; x", "not", "1 < dnsmos < 3", "(" * 30,
        "not " * 30 + "a > 1", "a > 1 or " * 200 + "a > 1",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match="where"):
        parse_where(text)


@given(st.text(max_size=40))
def test_any_text_is_a_condition_or_one_message(text: str) -> None:
    with suppress(ConfigError):
        parse_where(text).holds({name: COLUMNS["cps"] for name in parse_where(text).columns})


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


def test_scores_of_other_samples_and_damaged_ones_are_refused(store: Path) -> None:
    one, other = [part for part in open_store(store).parts if part.kind == "speech"][:2]
    write_scores(store, one, {"q": np.zeros(one.num_samples, np.float32)}, {})
    file = store / "scores" / f"{one.name}.parquet"
    shutil.copy(file, store / "scores" / f"{other.name}.parquet")
    with pytest.raises(DataError, match="score the store again"):
        read_scores(other)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="damaged"):
        read_scores(one)


def test_characters_per_second_are_of_the_transcript(store: Path) -> None:
    part = next(part for part in open_store(store).parts if part.name == "asterisk.en.speech")
    found, row = sample_columns(part, ["cps", "duration_sec"]), part.row(3)
    assert found["cps"][3] == pytest.approx(len(row.transcript_native or "") / (row.code_len / 50), rel=1e-5)
    silent = next(part for part in open_store(store).parts if part.name == "asterisk-speech.en.speech")
    assert np.isnan(sample_columns(silent, ["cps"])["cps"]).all()


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
