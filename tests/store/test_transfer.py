"""Token stores to a real S3 server and back: whole, verified, resumable, and never over another store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.plan_samples import make_world
from tests.support.s3_server import BUCKET, S3Server
from tests.support.store_samples import write_store, write_tokenizer
from titan_speech.cli.main import main
from titan_speech.data.plan import DataPlan
from titan_speech.errors import DataError
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.held_out_choice import HeldOutOptions, make_held_out_set
from titan_speech.store.held_out_set import read_held_out_set
from titan_speech.store.reader import open_store
from titan_speech.store.transfer import pull_store, push_store
from titan_speech.tokenization.text_tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    tokenizer = TextTokenizer.load(write_tokenizer(folder / "tokenizer"))
    return write_store(folder / "store", tokenizer, num_samples=12)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_comes_back_as_it_was(s3_server: S3Server, store: Path, tmp_path: Path, capsys) -> None:
    where = ("s3://stores/copy", "--endpoint-url", s3_server.endpoint_url)
    assert main(["store", "push", str(store), *where]) == 0
    assert main(["store", "pull", where[0], str(tmp_path / "back"), *where[1:]]) == 0
    assert "24 sent, 0 were there" in capsys.readouterr().out
    assert files_below(tmp_path / "back") == files_below(store)
    assert open_store(tmp_path / "back").fingerprint == open_store(store).fingerprint
    assert not (tmp_path / "back.pull").exists()


def test_every_verb_takes_the_endpoint(s3_server: S3Server, store: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TITAN_SPEECH_CACHE", str(tmp_path / "cache"))
    other = write_store(tmp_path / "other", TextTokenizer.load(store.parent / "tokenizer"), num_samples=12)
    where = ("--endpoint-url", s3_server.endpoint_url)
    for number, place in enumerate((store, other)):
        assert main(["store", "push", str(place), f"s3://stores/verbs{number}", *where]) == 0
    address = "s3://stores/verbs0"
    for words in (
        ["describe", address],
        ["verify", address],
        ["audit", address, "--output", str(tmp_path / "audit.html")],
        [
            "held-out",
            address,
            "--output",
            f"{tmp_path}/gold",
            *["--by", "sample", "--num-ce", "4", "--num-decode", "1"],
        ],
        ["migrate", address, "--plan"],
    ):
        assert main(["store", *words, *where]) in ((0, 1) if words[0] == "audit" else (0,)), words
    assert main(["store", "merge", address, "s3://stores/verbs1", "--output", str(tmp_path / "all"), *where]) == 2
    assert "duplicate sample_id in s3://stores/verbs0 and s3://stores/verbs1" in capsys.readouterr().err


def test_a_push_sends_only_what_is_missing_or_wrong(s3_server: S3Server, store: Path, tmp_path: Path) -> None:
    settings, url = s3_server.settings(tmp_path / "cache"), S3Url(BUCKET, "again")
    num_files = len(files_below(store))
    assert f"{num_files} sent" in push_store(store, url, settings)
    tokens = sorted(path.relative_to(store) for path in store.rglob("*.tokens"))
    s3_server.client().delete_object(Bucket=BUCKET, Key=f"again/{tokens[0]}")
    spoilt = bytes(len((store / tokens[1]).read_bytes()))
    s3_server.client().put_object(Bucket=BUCKET, Key=f"again/{tokens[1]}", Body=spoilt)
    assert f"2 sent, {num_files - 2} were there" in push_store(store, url, settings)


def test_the_manifest_is_sent_last_and_a_damaged_file_never(s3_server: S3Server, store: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "damaged"))
    tokens = sorted(damaged.rglob("*.tokens"))[-1]
    tokens.write_bytes(bytes(len(tokens.read_bytes())))
    with pytest.raises(DataError, match="damaged: sha256"):
        push_store(damaged, S3Url(BUCKET, "damaged"), s3_server.settings(tmp_path / "cache"))
    sent = client_of(s3_server.settings(tmp_path / "cache")).list_sizes(S3Url(BUCKET, "damaged"))
    assert "manifest.json" not in sent
    assert str(tokens.relative_to(damaged)) not in sent


def test_a_store_is_never_pushed_over_another_or_pulled_into_a_folder(
    s3_server: S3Server, store: Path, tmp_path: Path
) -> None:
    tokenizer = TextTokenizer.load(store.parent / "tokenizer")
    other = write_store(tmp_path / "other", tokenizer, num_samples=3, name="another")
    settings, url = s3_server.settings(tmp_path / "cache"), S3Url(BUCKET, "taken")
    push_store(store, url, settings)
    with pytest.raises(DataError, match="holds another store already"):
        push_store(other, url, settings)
    with pytest.raises(DataError, match="exists already"):
        pull_store(url, other, settings)


def test_what_is_written_to_a_folder_first_says_so(store: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["store", "held-out", str(store), "--output", "s3://stores/new", "--num-ce", "4", "--num-decode", "1"]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--by", "sample"])
    assert 'found "s3://stores/new", expected a local folder' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_gold_pack_holds_out_the_same_samples_from_its_address(s3_server: S3Server, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    gold = tmp_path / "gold"
    make_held_out_set([world.store], gold, HeldOutOptions(num_ce=12, num_decode=3, by="sample"))
    (gold / "build_report.json").write_text("{}")
    settings, url = s3_server.settings(tmp_path / "cache"), S3Url(BUCKET, "gold")
    push_store(gold, url, settings)
    local = world.three_tasks(held_out=(str(gold),))
    remote = replace(local, storage=settings, data=replace(local.data, held_out=(str(url),)))
    assert DataPlan.load(remote).fingerprint == DataPlan.load(local).fingerprint
    assert DataPlan.load(remote).fingerprint != DataPlan.load(world.three_tasks()).fingerprint
    assert f"held out by {url}: " in DataPlan.load(remote).describe()
    pull_store(url, tmp_path / "back", settings)
    assert files_below(tmp_path / "back") == files_below(gold)


def test_another_gold_json_is_never_sent_over_one(s3_server: S3Server, store: Path, tmp_path: Path) -> None:
    settings, url = s3_server.settings(tmp_path / "cache"), S3Url(BUCKET, "gold-taken")
    copy = Path(shutil.copytree(store, tmp_path / "gold"))
    push_store(copy, url, settings)
    with pytest.raises(DataError, match=r"no held-out set at s3://stores/gold-taken: gold.json is missing"):
        read_held_out_set(str(url), settings)
    (copy / "gold.json").write_text("one")
    push_store(copy, url, settings)
    with pytest.raises(DataError, match=r"s3://stores/gold-taken/gold.json is damaged"):
        read_held_out_set(str(url), settings)
    (copy / "gold.json").write_text("two")
    with pytest.raises(DataError, match=r"holds another gold.json already"):
        push_store(copy, url, settings)
    spoilt = {"Metadata": {"sha256": "0" * 64}, "Body": b"one"}
    s3_server.client().put_object(Bucket=BUCKET, Key="gold-taken/gold.json", **spoilt)
    with pytest.raises(DataError, match=r"gold.json is damaged: its sha256"):
        pull_store(url, tmp_path / "back", settings)
    assert not (tmp_path / "back").exists()
