"""`store build`: the same bytes after any interruption; continues after any kill."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.s3_server import S3Server
from tests.support.store_samples import CODEC
from tests.support.vectorizer_output import NUM_SAMPLES, build_request, spoken, write_inworld
from titan_speech.cli.main import main
from titan_speech.config.schema_data import StorageConfig
from titan_speech.errors import DataError
from titan_speech.importers.base import ImportOptions, SpeechSample, open_importer
from titan_speech.importers.build import BuildRequest, build_store
from titan_speech.storage.s3_url import S3Url
from titan_speech.store import sample_sorter
from titan_speech.store.reader import open_store
from titan_speech.store.transfer import pull_store
from titan_speech.store.verify import verify_store
from titan_speech.store.writer import StoreWriter
from titan_speech.tokenization.text_tokenizer import TextTokenizer


def digest(store: Path) -> dict[str, str]:
    files = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Same bytes


def test_a_built_store_is_sound_and_holds_every_sample(built: Path) -> None:
    assert verify_store(built).is_sound
    store, expected = open_store(built), {sample.sample_id: sample for sample in spoken(NUM_SAMPLES)}
    found = 0
    for part in store.parts:
        assert len(part.info.shards) > 1
        for n in range(part.num_samples):
            row = part.row(n)
            sample = expected[row.sample_id]
            assert np.array_equal(part.codes(n), sample.codes)
            assert (row.transcript_native, row.language) == (sample.transcript, sample.language)
            found += 1
    assert found == NUM_SAMPLES
    assert not built.with_name("store.building").exists()


def test_three_processes_and_other_units_give_the_same_bytes(
    tmp_path: Path, built: Path, vectorized: Path, tokenizer_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_store(build_request(vectorized, tmp_path / "three", tokenizer_path, num_workers=3))
    assert digest(tmp_path / "three") == digest(built)
    monkeypatch.setattr(sample_sorter, "BATCH_SAMPLES", 7)
    monkeypatch.setattr(sample_sorter, "RUN_SAMPLES", 20)
    options = ImportOptions((vectorized,), unit_bytes=13_000)
    manifest = build_store(build_request(vectorized, tmp_path / "units", tokenizer_path, options=options))
    assert manifest.fingerprint == open_store(built).fingerprint


def test_the_writer_gives_the_same_store(tmp_path: Path, built: Path, vectorized: Path, tokenizer_path: Path) -> None:
    source = open_importer("inworld", ImportOptions((vectorized,)))
    samples = [sample for unit in source.units() for sample in source.samples(unit)]
    with StoreWriter(
        tmp_path / "written",
        name="small",
        codec=CODEC,
        tokenizer=TextTokenizer.load(tokenizer_path),
        normalization_version="none",
        licence="CC0-1.0",
        shard_bytes=1500,
    ) as writer:
        for sample in reversed(samples):
            assert isinstance(sample, SpeechSample)
            writer.add_speech(sample.info, sample.codes_T, sample.transcripts)
    report = {"build_report.json"}
    assert digest(tmp_path / "written").items() == {k: v for k, v in digest(built).items() if k not in report}.items()


# Kills


def command(source: Path, output: Path, tokenizer: Path, workers: int) -> list[str]:
    words = ["store", "build", "--from", "inworld", "--input", str(source), "--output", str(output)]
    words += ["--tokenizer", str(tokenizer), "--name", "small", "--licence", "CC0-1.0", "--workers", str(workers)]
    words += ["--codec-name", CODEC.name, "--codec-hash", CODEC.hash]
    return [*words, "--unit-mb", str(8000 / 2**20), "--shard-mb", str(1500 / 2**20)]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("titan_speech.store.sample_sorter.write_run:2", marks=pytest.mark.slow),
        "titan_speech.importers.build_workers.write_unit_record:2",
        pytest.param("titan_speech.importers.build.find_conflicts:1", marks=pytest.mark.slow),
        "titan_speech.store.shard_writer.write_sidecar:2",
        pytest.param("titan_speech.importers.build_workers.write_shard_record:2", marks=pytest.mark.slow),
        "titan_speech.importers.build.write_manifest:1",
        "titan_speech.importers.build_folder.shutil.rmtree:2",
    ],
)
def test_a_build_killed_at_any_moment_continues_to_the_same_bytes(
    tmp_path: Path, built: Path, vectorized: Path, tokenizer_path: Path, moment: str
) -> None:
    """The process kills itself with SIGKILL at the n-th call; the same command then finishes the store."""
    target, _, count = moment.partition(":")
    module, _, name = target.rpartition(".")
    output = tmp_path / "store"
    script = f"""
import os, signal, sys
from unittest import mock
from titan_speech.cli import main as cli
import titan_speech.importers.build
import pkgutil
owner = pkgutil.resolve_name({module!r})
real, calls = getattr(owner, {name!r}), []
def die(*args, **options):
    calls.append(1)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
setattr(owner, {name!r}, die)
sys.exit(cli.main(sys.argv[1:]))
"""
    words = command(vectorized, output, tokenizer_path, workers=1)
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, timeout=100, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if "rmtree" not in moment:
        with pytest.raises(DataError):
            open_store(output)
    assert main(words) == 0
    assert digest(output) == digest(built)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("victim", ["worker", "first process"])
def test_a_killed_process_of_several_ends_all_and_the_build_continues(
    tmp_path: Path, tokenizer_path: Path, victim: str
) -> None:
    source = write_inworld(tmp_path / "vectorized", spoken(1500, seed=1))
    words = command(source, tmp_path / "store", tokenizer_path, workers=2)
    running = subprocess.Popen([sys.executable, "-m", "titan_speech", *words], stderr=subprocess.PIPE, text=True)
    units = tmp_path / "store.building" / "units"
    wait_until(lambda: len(list(units.glob("*/record.json"))) >= 2)
    workers = [pid for pid in children_of(running.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0] if victim == "worker" else running.pid, signal.SIGKILL)
    _, message = running.communicate(timeout=60)
    if victim == "worker":
        assert running.returncode == 2, message
        assert "a worker process was killed" in message
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    num_done = len(list(units.glob("*/record.json")))
    assert num_done >= 2
    assert not (tmp_path / "store").exists()
    assert main(words) == 0
    build_store(build_request(source, tmp_path / "at_once", tokenizer_path))
    assert digest(tmp_path / "store") == digest(tmp_path / "at_once")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def interrupted(asked: BuildRequest) -> None:
    """A build that is stopped when its units are imported."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("titan_speech.importers.build.find_conflicts", stop)
        with pytest.raises(KeyboardInterrupt):
            build_store(asked)


def test_finished_units_are_not_imported_again_unless_their_input_changed(
    tmp_path: Path, vectorized: Path, tokenizer_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(vectorized, tmp_path / "vectorized"))
    imported: list[str] = []
    real = sample_sorter.write_run
    monkeypatch.setattr(sample_sorter, "write_run", lambda *args: (imported.append(str(args[0])), real(*args))[1])
    asked = build_request(source, tmp_path / "store", tokenizer_path)
    interrupted(asked)
    assert len(imported) > 3
    imported.clear()
    interrupted(asked)
    assert imported == []
    os.utime(source / "train_codes.npy", (1, 1))
    build_store(asked)
    assert len(imported) > 3


def test_an_unfinished_build_with_other_settings_is_refused_with_what_changed(
    tmp_path: Path, vectorized: Path, tokenizer_path: Path
) -> None:
    asked = build_request(vectorized, tmp_path / "store", tokenizer_path)
    interrupted(asked)
    with pytest.raises(DataError, match=r"other settings; .*delete that folder.*\n  seed: began with 0, now 5"):
        build_store(replace(asked, seed=5))
    build_store(asked)
    with pytest.raises(DataError, match="exists already"):
        build_store(asked)


def test_two_builds_of_one_store_at_once_are_refused(tmp_path: Path, vectorized: Path, tokenizer_path: Path) -> None:
    asked = build_request(vectorized, tmp_path / "store", tokenizer_path)

    def second(*_: object) -> None:
        with pytest.raises(DataError, match="another process is building"):
            build_store(asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("titan_speech.importers.build.find_conflicts", second)
        build_store(asked)


# Object storage


def test_a_store_is_built_into_object_storage_also_after_a_kill_in_the_push(
    tmp_path: Path, built: Path, vectorized: Path, tokenizer_path: Path, s3_server: S3Server
) -> None:
    words = command(vectorized, Path("unused"), tokenizer_path, workers=1)
    words[words.index("unused")] = "s3://stores/built"
    words += ["--endpoint-url", s3_server.endpoint_url, "--work-dir", str(tmp_path)]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("titan_speech.store.transfer.push_store", stop)
        assert main(words) == 130
    assert main(words) == 0
    assert list(tmp_path.iterdir()) == []
    settings = StorageConfig(endpoint_url=s3_server.endpoint_url)
    pull_store(S3Url("stores", "built"), tmp_path / "back", settings)
    assert open_store(tmp_path / "back").fingerprint == open_store(built).fingerprint
    assert main(words) == 2
