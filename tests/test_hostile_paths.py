"""Paths and checksums of manifests, markers and listings that somebody else wrote never leave their folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from tests.support.checkpoint_folders import write_checkpoint
from tests.support.runs import ROOT
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.checkpoint.commit import MARKER, read_commit
from titan_speech.checkpoint.upload.job import UploadJob
from titan_speech.checkpoint.upload.transfer import fetch
from titan_speech.checkpoint.upload.uploader import UploadPass
from titan_speech.checkpoint.verify import verify
from titan_speech.config.schema_data import StorageConfig
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.errors import CheckpointError, DataError, ModelError, TitanSpeechError
from titan_speech.hf.config_json import shape_from_config
from titan_speech.hf.model_folder import _weight_map
from titan_speech.importers.base import BadSample, ImportOptions, open_importer
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url
from titan_speech.store.manifest import MANIFEST_NAME, content_fingerprint
from titan_speech.store.manifest_reader import read_manifest
from titan_speech.store.remote_files import read_remote_manifest
from titan_speech.store.transfer import pull_store, push_store
from titan_speech.store.verify import verify_store
from titan_speech.utils.safe_path import (
    UnsafePathError,
    byte_count,
    path_inside,
    referenced_file,
    relative_path,
    sha256_text,
)

DEMO_STORE = ROOT / "demo_data" / "heldout"
EVIL = b"written by somebody else"
SHA256 = hashlib.sha256(EVIL).hexdigest()
BAD_PATHS = (
    "a" * 256 + "/x",
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "a/./b",
    ".",
    "C:x",
    "a\\b",
    "a\nb",
    "a\x1b[31mb",
    "a" * 1025,
)


@pytest.mark.parametrize("text", [*BAD_PATHS, None, 3, ["a"]])
def test_a_path_that_could_leave_its_folder_is_refused(text: object) -> None:
    with pytest.raises(UnsafePathError, match="expected"):
        relative_path(text)


@pytest.mark.parametrize("text", ["a", "part.en.speech/00000.tokens", "हिन्दी/१.txt", ".metadata", "a..b/c"])
def test_an_ordinary_path_is_left_alone(text: str) -> None:
    assert relative_path(text) == text


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n", None])
def test_a_checksum_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(UnsafePathError, match="64 digits"):
        sha256_text(text)


@pytest.mark.parametrize("number", [-1, True, 1.5, "3", None])
def test_a_size_that_is_none_is_refused(number: object) -> None:
    with pytest.raises(UnsafePathError, match="whole number"):
        byte_count(number)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePathError, match="symbolic link"):
        path_inside(tmp_path / "folder", "link/file")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    for judge in (path_inside, referenced_file):
        with pytest.raises(UnsafePathError, match="leads nowhere"):
            judge(tmp_path, "link/file")
    assert path_inside(tmp_path / "folder", "a/b") == tmp_path / "folder/a/b"


@pytest.fixture
def storage(s3_server: S3Server, tmp_path: Path) -> StorageConfig:
    return s3_server.settings(tmp_path / "cache")


def spoiled(manifest: Path, change: Callable[[dict], None]) -> bytes:
    """The manifest with one file changed, and a fingerprint that fits again: anybody can make one."""
    content = json.loads(manifest.read_text())
    change(content["parts"][0]["shards"][0]["files"][0])
    content["fingerprint"] = content_fingerprint(content)
    return json.dumps(content).encode()


def hostile_store(s3_server: S3Server, storage: StorageConfig, name: str, change: Callable[[dict], None]) -> S3Url:
    """A pushed store whose manifest was replaced."""
    url = S3Url(BUCKET, f"hostile/{name}")
    push_store(DEMO_STORE, url, storage)
    client = s3_server.client()
    client.put_object(Bucket=BUCKET, Key=f"{url.key}/{MANIFEST_NAME}", Body=spoiled(DEMO_STORE / MANIFEST_NAME, change))
    return url


def put_if_possible(s3_server: S3Server, key: str) -> None:
    """The sender's object where the manifest says it is; this server refuses keys with `..`, others take them."""
    with suppress(ClientError):
        s3_server.client().put_object(Bucket=BUCKET, Key=key, Body=EVIL)


def everything_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("is_absolute", [True, False], ids=["absolute", "climbing"])
def test_a_pull_writes_nothing_outside_its_folder(
    s3_server: S3Server, storage: StorageConfig, tmp_path: Path, is_absolute: bool
) -> None:
    path = str(tmp_path / "victim") if is_absolute else "../victim"

    def change(file: dict) -> None:
        file.update(path=path, num_bytes=len(EVIL), sha256=SHA256)

    url = hostile_store(s3_server, storage, f"path-{is_absolute}", change)
    put_if_possible(s3_server, f"{url.key}/{path}")
    with pytest.raises(DataError, match=r"found the path .*Nothing of the store was read or written"):
        pull_store(url, tmp_path / "pulled", storage)
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("is_remote", [True, False])
def test_a_checksum_is_never_a_file_name_of_its_writers_choice(
    s3_server: S3Server, storage: StorageConfig, tmp_path: Path, is_remote: bool
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(EVIL)

    def change(file: dict) -> None:
        file.update(sha256=f"../../{victim.name}")

    if is_remote:
        url = hostile_store(s3_server, storage, "sha256", change)
        with pytest.raises(DataError, match="64 digits"):
            read_remote_manifest(client_of(storage), url)
    else:
        folder = tmp_path / "store"
        shutil.copytree(DEMO_STORE, folder)
        (folder / MANIFEST_NAME).write_bytes(spoiled(DEMO_STORE / MANIFEST_NAME, change))
        with pytest.raises(DataError, match="64 digits"):
            read_manifest(folder)
    assert victim.read_bytes() == EVIL


def test_a_claimed_size_takes_no_memory(
    s3_server: S3Server, storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = {"num_bytes": 1 << 60}
    url = hostile_store(s3_server, storage, f"size-{claimed['num_bytes']}", lambda file: file.update(claimed))
    with pytest.raises(DataError, match=r"claims 1,152,921,504,606,846,976 bytes, expected at most"):
        pull_store(url, tmp_path / "pulled", storage)
    assert everything_below(tmp_path) == []

    claimed["num_bytes"] = 1 << 40  # one object may have that: 131,072 ranges
    url = hostile_store(s3_server, storage, f"size-{claimed['num_bytes']}", lambda file: file.update(claimed))
    client, num_submitted = client_of(storage), 0
    submit = client.pool.submit

    def counted_submit(*arguments: Any) -> Any:
        nonlocal num_submitted
        num_submitted += 1
        return submit(*arguments)

    monkeypatch.setattr(client.pool, "submit", counted_submit)
    with pytest.raises(DataError, match=r"00000\.tokens"):
        pull_store(url, tmp_path / "pulled", storage)
    assert num_submitted < 1000


@pytest.mark.parametrize("suffix", ["tokens", "parquet"])
def test_a_pipe_in_the_place_of_a_file_is_a_problem_and_not_opened(tmp_path: Path, suffix: str) -> None:
    store = tmp_path / "store"
    shutil.copytree(DEMO_STORE, store)
    file = store / f"asterisk.en.speech/00000.{suffix}"
    file.unlink()
    os.mkfifo(file)
    writer = os.open(file, os.O_RDWR)  # a reader that opens it finds an end, and the test an error, sooner or later
    threading.Timer(2, os.close, (writer,)).start()
    found = verify_store(store, num_workers=1)
    assert any("is no regular file" in problem for problem in found.problems), found


@pytest.fixture
def job(storage: StorageConfig, tmp_path: Path, request: pytest.FixtureRequest) -> UploadJob:
    """A run whose step 10 is complete at an address."""
    run = tmp_path / "run"
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    job = UploadJob(run, run / "checkpoint", UploadConfig(to=f"s3://{BUCKET}/sent-{name}", keep="all"), storage)
    write_checkpoint(job.checkpoints, 10)
    UploadPass(job).run()
    return job


def replace_sent_manifest(s3_server: S3Server, job: UploadJob, change: Callable[[dict], None]) -> S3Url:
    url = job.prefix().url
    client, key = s3_server.client(), f"{url.key}/complete/step-10.json"
    content = json.loads(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    change(content)
    client.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(content).encode())
    return url


@pytest.mark.parametrize(
    "path",
    ["../../victim", "{folder}/victim", "step-11/commit.json", "victim", "pinned/victim", "step-10/../../victim"],
)
def test_a_fetched_checkpoint_writes_its_own_files_only(
    s3_server: S3Server, job: UploadJob, tmp_path: Path, path: str
) -> None:
    path = path.format(folder=tmp_path)
    evil = {"path": path, "num_bytes": len(EVIL), "sha256": SHA256, "xxh3_128": ""}
    url = replace_sent_manifest(s3_server, job, lambda content: content["files"].append(evil))
    put_if_possible(s3_server, f"{url.key}/{path}")
    there = everything_below(tmp_path)
    with pytest.raises(CheckpointError, match=r"found the path .*Nothing of the checkpoint was fetched or written"):
        fetch(job.prefix(), "step-10", tmp_path / "new" / "checkpoint")
    assert everything_below(tmp_path) == there


@pytest.mark.parametrize("change", [{"name": "step-11"}, {"step": 11}, {"name": "../x-10"}, {"name": "run-10"}])
def test_a_manifest_of_another_checkpoint_is_refused(
    s3_server: S3Server, job: UploadJob, tmp_path: Path, change: dict
) -> None:
    replace_sent_manifest(s3_server, job, lambda content: content.update(change))
    with pytest.raises(CheckpointError):
        fetch(job.prefix(), "step-10", tmp_path / "new" / "checkpoint")
    assert not (tmp_path / "new").exists()


def test_a_fetched_checkpoint_follows_no_link_out_of_its_folder(job: UploadJob, tmp_path: Path) -> None:
    folder, outside = tmp_path / "new" / "checkpoint", tmp_path / "outside"
    outside.mkdir()
    folder.mkdir(parents=True)
    (folder / "provenance").symlink_to(outside)
    with pytest.raises(DataError, match="symbolic link"):
        fetch(job.prefix(), "step-10", folder)
    assert everything_below(outside) == []


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "a\x1bb"])
def test_a_marker_names_files_of_its_checkpoint_only(tmp_path: Path, name: str) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", 10)
    content = json.loads((checkpoint / MARKER).read_text())
    content["files"][0]["name"] = name
    (checkpoint / MARKER).write_text(json.dumps(content))
    assert not verify(checkpoint, checksums=False).is_sound


def test_a_weight_map_names_files_of_its_folder_only(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other/model.safetensors"}}))
    with pytest.raises(ModelError, match="found the path"):
        _weight_map(index)


def samples_of(name: str, options: ImportOptions) -> list:
    opened = open_importer(name, options)
    return [sample for unit in opened.units() for sample in opened.samples(unit)]


@pytest.mark.parametrize("how", ["climbing", "absolute", "link"])
def test_jsonl_reads_arrays_of_its_own_folder_unless_more_is_allowed(tmp_path: Path, how: str) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    np.save(elsewhere / "codes.npy", np.arange(50, dtype=np.uint16))
    (data / "link.npy").symlink_to(elsewhere / "codes.npy")
    named = {"climbing": "../elsewhere/codes.npy", "absolute": str(elsewhere / "codes.npy"), "link": "link.npy"}[how]
    record = {"sample_id": "a", "codes": named, "code_len": 50, "speaker_id": "s", "source_video_id": "v"}
    (data / "a.jsonl").write_text(json.dumps(record) + "\n")
    options = ImportOptions((data,), dataset_source="x", language="en")
    (refused,) = samples_of("jsonl", options)
    assert isinstance(refused, BadSample)
    assert "--files-from" in refused.problem.detail
    (read,) = samples_of("jsonl", ImportOptions((data,), "x", "en", files_from=(elsewhere,)))
    assert not isinstance(read, BadSample)
    assert read.codes_T.tolist() == list(range(50))


@pytest.mark.parametrize("listing", ["bars", "json"])
def test_a_listing_names_audio_of_its_own_folder_unless_more_is_allowed(tmp_path: Path, listing: str) -> None:
    wav = ROOT / "tests/assets/hi-espeak-library-name.wav"
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    shutil.copy(wav, elsewhere / "a.wav")
    if listing == "bars":
        (data / "metadata.csv").write_text("../../elsewhere/a|some words\n")
        (data / "wavs").mkdir()
    else:
        (data / "metadata.jsonl").write_text(json.dumps({"audio": str(elsewhere / "a.wav")}) + "\n")
    options = ImportOptions((data,), "x", "en", codec="embedded")
    with pytest.raises(DataError, match="--files-from"):
        open_importer("audio", options)
    opened = open_importer("audio", ImportOptions((data,), "x", "en", codec="embedded", files_from=(elsewhere,)))
    assert len(opened.units()) == 1


@pytest.mark.parametrize("name", ["../outside/shard.mds", "/etc/hostname"])
def test_an_mds_index_names_shards_of_its_folder_only(tmp_path: Path, name: str) -> None:
    raw = {"basename": name, "bytes": 3, "hashes": {}}
    shard = {
        **{"format": "mds", "column_names": ["codes"], "column_encodings": ["ndarray:uint16"], "column_sizes": [None]},
        **{"samples": 1, "raw_data": raw, "zip_data": None, "compression": None},
    }
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    with pytest.raises(TitanSpeechError, match="found the path"):
        open_importer("mds", ImportOptions((tmp_path,), "x", "en"))


def test_a_manifest_cannot_state_more_samples_than_its_files_hold(tmp_path: Path) -> None:
    """Readers make tables of that many samples."""
    content = json.loads((DEMO_STORE / MANIFEST_NAME).read_bytes())
    content["parts"][0]["shards"][0]["num_samples"] = 1 << 50
    content["fingerprint"] = content_fingerprint(content)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(DataError, match="more than its files hold"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"])
def test_a_config_json_of_an_absurd_model_is_refused(tmp_path: Path, key: str) -> None:
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    content = {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "max_position_embeddings": 64}
    content |= {"rope_theta": 1e4} | dict.fromkeys(sizes, 64)
    shape_from_config(content, tmp_path)
    with pytest.raises(ModelError, match=f"{key} is 1000000000, expected at most"):
        shape_from_config(content | {key: 10**9}, tmp_path)


def test_json_of_others_is_bounded_and_never_a_traceback(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(b"[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_manifest(tmp_path)
    (tmp_path / MARKER).write_bytes(b"[" * 100_000)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read_commit(tmp_path)
    with open(tmp_path / MANIFEST_NAME, "wb") as file:
        file.truncate(1 << 40)  # a sparse file of a terabyte
    with pytest.raises(DataError, match="more than 268,435,456 bytes"):
        read_manifest(tmp_path)
