"""Scores travel with their samples, merged, migrated, held out, pushed and pulled; those of others are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.runs import ROOT
from tests.support.s3_server import BUCKET, S3Server
from tests.support.store_samples import CODEC, SENTENCES, info, speech_codes, write_tokenizer
from titan_speech.config.sample_conditions import parse_where
from titan_speech.config.schema_data import DataConfig, SourceConfig, TaskName
from titan_speech.errors import DataError
from titan_speech.preflight.data_checks import check_sources
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.merge import merge_stores
from titan_speech.store.migrate import MigrateOptions, migrate_store
from titan_speech.store.reader import Part, open_store
from titan_speech.store.score_columns import read_scores, sample_columns, scorers_of, write_scores
from titan_speech.store.transfer import pull_store, push_store
from titan_speech.store.verify import verify_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def scored(path: Path, tokenizer: Path, samples: range, **columns: float) -> Path:
    """A store of English speech; each column of sample n is n times its factor."""
    with StoreWriter(
        path,
        name=path.name,
        codec=CODEC,
        tokenizer=TextTokenizer.load(tokenizer),
        normalization_version="none",
        licence="CC0-1.0",
        shard_bytes=400,
    ) as writer:
        for n in samples:
            writer.add_speech(info(f"sample {n}"), speech_codes(n), {"native": f"{SENTENCES[0]} {n}"})
    if columns:
        part = open_store(path).parts[0]
        values = {name: numbers(part) * np.float32(factor) for name, factor in columns.items()}
        write_scores(path, part, values, {name: f"scorer of {path.name}" for name in columns})
    return path


def numbers(part: Part) -> NDArray[np.float32]:
    return np.array([int(name.split()[1]) for name in part.column("sample_id").to_pylist()], np.float32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_a_merged_store_has_the_scores_of_its_samples(tokenizer: Path, tmp_path: Path) -> None:
    one = scored(tmp_path / "one", tokenizer, range(8), dnsmos=1, cer=0.5)
    other = scored(tmp_path / "other", tokenizer, range(8, 13), dnsmos=1)
    unscored = scored(tmp_path / "unscored", tokenizer, range(13, 15))
    merge_stores([other, one, unscored], tmp_path / "merged")
    part = open_store(tmp_path / "merged").parts[0]
    found, n_N = read_scores(part), numbers(part)
    np.testing.assert_array_equal(found["dnsmos"], np.where(n_N < 13, n_N, np.nan))
    np.testing.assert_array_equal(found["cer"], np.where(n_N < 8, n_N / 2, np.nan))
    assert scorers_of(part) == {"dnsmos": "scorer of other or scorer of one", "cer": "scorer of one"}
    assert not verify_store(tmp_path / "merged").problems
    assert parse_where("dnsmos >= 9").holds(sample_columns(part, ["dnsmos"])).sum() == 4, "a missing one excludes"


def test_migrated_and_held_out_samples_keep_theirs_unless_texts_change(tokenizer: Path, tmp_path: Path) -> None:
    store = scored(tmp_path / "store", tokenizer, range(12), dnsmos=1)
    new = write_tokenizer(tmp_path / "new", vocab_size=330)
    migrate_store(store, tmp_path / "migrated", MigrateOptions(tokenizer=new))
    make_held_out_set([store], tmp_path / "gold", HeldOutOptions(num_ce=1, num_decode=1, by="sample"))
    for place in ("migrated", "gold"):
        part = open_store(tmp_path / place).parts[0]
        np.testing.assert_array_equal(read_scores(part)["dnsmos"], numbers(part))
    migrate_store(store, tmp_path / "normalized", MigrateOptions(tokenizer=new, normalize=True))
    assert read_scores(open_store(tmp_path / "normalized").parts[0]) == {}


def test_stale_scores_stop_a_merge_and_leave_nothing(tokenizer: Path, tmp_path: Path) -> None:
    one = scored(tmp_path / "one", tokenizer, range(8), dnsmos=1)
    other = scored(tmp_path / "other", tokenizer, range(8, 13))
    shutil.copytree(one / "scores", other / "scores")
    with pytest.raises(DataError, match="score the store again"):
        merge_stores([one, other], tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]
    assert "score the store again" in "".join(verify_store(other).problems)
    assert not verify_store(one).problems


def test_a_pushed_store_is_read_by_its_scores_and_pulled_with_them(
    s3_server: S3Server, tokenizer: Path, tmp_path: Path
) -> None:
    store, settings = scored(tmp_path / "store", tokenizer, range(9), dnsmos=1), s3_server.settings(tmp_path / "cache")
    url, part = S3Url(BUCKET, "scored"), open_store(store).parts[0]
    push_store(store, url, settings)
    remote = open_store(str(url), settings).parts[0]
    assert parse_where("dnsmos > 5").holds(sample_columns(remote, ["dnsmos"])).sum() == 3
    pull_store(url, tmp_path / "back", settings)
    np.testing.assert_array_equal(read_scores(open_store(tmp_path / "back").parts[0])["dnsmos"], numbers(part))

    write_scores(store, part, {"dnsmos": numbers(part), "cer": numbers(part)}, {})
    assert "1 sent" in push_store(store, url, settings)
    assert read_scores(remote).keys() == {"dnsmos", "cer"}, "columns may be added"
    write_scores(store, part, {"dnsmos": numbers(part) + 1, "cer": numbers(part)}, {})
    with pytest.raises(DataError, match=r"has other scores already \(dnsmos\)"):
        push_store(store, url, settings)


@pytest.mark.parametrize(
    ("task", "where", "found"),
    [
        ("tts", "dnsmos >", "'the end' at character 9, a number: a column is compared with a number"),
        ("tts", "dnsmos = 3", "'= 3' at character 8"),
        ("text", "cps < 25", "where of task text"),
    ],
)
def test_a_condition_is_checked_with_the_configuration(task: TaskName, where: str, found: str) -> None:
    source = SourceConfig(name="a", store="b", task=task, share=1.0, where=where)
    (problem,) = check_sources(DataConfig(source=(source,)))
    assert problem.keys[0] == "data.source.0.where"
    assert found in f"{problem.found}, {problem.expected}"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "demo_data", tmp_path / "demo_data")
    return tmp_path / "demo_data"


def test_scores_of_other_samples_and_damaged_ones_are_refused(demo: Path) -> None:
    one, other = [part for part in open_store(demo).parts if part.kind == "speech"][:2]
    write_scores(demo, one, {"q": np.zeros(one.num_samples, np.float32)}, {})
    file = demo / "scores" / f"{one.name}.parquet"
    shutil.copy(file, demo / "scores" / f"{other.name}.parquet")
    with pytest.raises(DataError, match="score the store again"):
        read_scores(other)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="damaged"):
        read_scores(one)


def test_characters_per_second_are_of_the_transcript(demo: Path) -> None:
    part = next(part for part in open_store(demo).parts if part.name == "asterisk.en.speech")
    found, row = sample_columns(part, ["cps", "duration_sec"]), part.row(3)
    assert found["cps"][3] == pytest.approx(len(row.transcript_native or "") / (row.code_len / 50), rel=1e-5)
    silent = next(part for part in open_store(demo).parts if part.name == "asterisk-speech.en.speech")
    assert np.isnan(sample_columns(silent, ["cps"])["cps"]).all()
