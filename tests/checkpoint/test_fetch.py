"""Checkpoints come back from object storage as they were, to machines that have nothing or a part of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.checkpoint_folders import content, write_checkpoint
from tests.support.fault_proxy import FOREVER, FaultProxy, fault_proxy
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.checkpoint.commit import MARKER, checkpoint_path
from titan_speech.checkpoint.folders import ROLLED_BACK
from titan_speech.checkpoint.open_run import local_copy, with_local_start
from titan_speech.checkpoint.upload.job import UploadJob
from titan_speech.checkpoint.upload.transfer import fetch
from titan_speech.checkpoint.upload.uploader import UploadPass
from titan_speech.checkpoint.verify import verify
from titan_speech.config.schema import JobConfig, SpeechConfig
from titan_speech.config.schema_data import StorageConfig
from titan_speech.config.schema_operations import CheckpointConfig, UploadConfig
from titan_speech.errors import CheckpointError, DataError
from titan_speech.storage import retry

PREFIX = f"s3://{BUCKET}/fetch"
BIG_BYTES = 9 << 20  # two ranges


@pytest.fixture(scope="module")
def shared_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.port) as running:
        yield running


@pytest.fixture(autouse=True)
def proxy(shared_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    monkeypatch.setattr(retry, "FIRST_WAIT_SEC", 0.02)
    shared_proxy.num_busy = shared_proxy.num_cut = shared_proxy.num_flipped = shared_proxy.num_bytes = 0
    return shared_proxy


@pytest.fixture(scope="module")
def storage(s3_server: S3Server, shared_proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> StorageConfig:
    return s3_server.settings(tmp_path_factory.mktemp("cache"), shared_proxy.port, num_attempts=2)


@pytest.fixture(scope="module")
def uploaded(storage: StorageConfig, tmp_path_factory: pytest.TempPathFactory) -> UploadJob:
    """A run with the full steps 10 and 20 and the weights of step 30, all of them at the address too."""
    run = tmp_path_factory.mktemp("run")
    job = UploadJob(run, run / "checkpoint", UploadConfig(to=PREFIX, keep="all"), storage)
    write_checkpoint(job.checkpoints, 10)
    write_checkpoint(job.checkpoints, 20, num_ranks=2, model_bytes=BIG_BYTES)
    write_checkpoint(job.checkpoints, 30, kind="model")
    UploadPass(job).run()
    return job


@pytest.fixture
def config(storage: StorageConfig, uploaded: UploadJob, tmp_path: Path) -> SpeechConfig:
    """The same run on another machine."""
    return SpeechConfig(
        job=JobConfig(dump_folder=str(tmp_path / "run")), storage=storage, upload=UploadConfig(to=PREFIX, keep="all")
    )


def own(config: SpeechConfig) -> Path:
    return Path(config.job.dump_folder) / "checkpoint"


def test_a_new_machine_gets_the_newest_full_checkpoint_as_it_was(config: SpeechConfig, uploaded: UploadJob) -> None:
    with_local_start(config)
    fetched = checkpoint_path(own(config), 20)
    assert content(fetched) == content(checkpoint_path(uploaded.checkpoints, 20))
    assert verify(fetched, checksums=True).problems == ()
    assert sorted(path.name for path in own(config).iterdir()) == [
        *("data_phases", "fetching.lock", "provenance", "step-20")
    ]


def test_the_run_takes_over_what_is_at_the_address(config: SpeechConfig, uploaded: UploadJob) -> None:
    with_local_start(config)
    job = UploadJob.of_run(config, 0)
    write_checkpoint(job.checkpoints, 40)
    UploadPass(job).run()
    assert job.prefix().names() == ["step-10", "step-20", "step-30", "step-40"]
    job.prefix().remove("step-40")


@pytest.mark.parametrize(("ours", "expected"), [(15, {15, 20}), (25, {25})])
def test_the_newer_of_here_and_there_is_gone_on_from(config: SpeechConfig, ours: int, expected: set[int]) -> None:
    write_checkpoint(own(config), ours)
    run_id = Path(config.job.dump_folder) / "upload" / "run.id"
    run_id.parent.mkdir()
    run_id.write_text(str(UploadJob.of_run(config, 0).prefix().run_id()))
    with_local_start(config)
    assert {int(path.name.removeprefix("step-")) for path in own(config).glob("step-*")} == expected


def test_what_a_rollback_retired_does_not_come_back_from_the_address(config: SpeechConfig) -> None:
    config = replace(config, upload=replace(config.upload, to=f"{PREFIX}-rolled-back"))
    job = UploadJob.of_run(config, 0)
    for step in (10, 20):
        write_checkpoint(job.checkpoints, step)
    UploadPass(job).run()
    retired = checkpoint_path(job.checkpoints, 20)
    retired.replace(retired.with_name(f"{retired.name}{ROLLED_BACK}"))
    with_local_start(config)
    assert job.prefix().names() == ["step-10"]
    assert not retired.exists()
    write_checkpoint(job.checkpoints, 20, seed=1)
    UploadPass(job).run()
    with_local_start(config)
    assert job.prefix().names() == ["step-10", "step-20"]


def test_the_step_that_is_asked_for_comes(config: SpeechConfig, caplog: pytest.LogCaptureFixture) -> None:
    with_local_start(replace(config, checkpoint=CheckpointConfig(load_step=10)))
    assert "still has step-20, step-30" in caplog.text
    assert [path.name for path in own(config).glob("step-*")] == ["step-10"]


def test_a_node_fetches_only_what_its_ranks_did_not_write(
    config: SpeechConfig, uploaded: UploadJob, proxy: FaultProxy
) -> None:
    whole, mine = checkpoint_path(uploaded.checkpoints, 20), checkpoint_path(own(config), 20)
    mine.mkdir(parents=True)
    for name in ("__1_model_0.distcp", "__1_state_0.distcp", MARKER):
        shutil.copy(whole / name, mine / name)
    assert not verify(mine, checksums=False).is_sound
    (Path(config.job.dump_folder) / "upload").mkdir()
    (Path(config.job.dump_folder) / "upload" / "run.id").write_text(str(uploaded.prefix().run_id()))
    with_local_start(config)
    assert content(mine) == content(whole)
    assert BIG_BYTES < proxy.num_bytes < 1.2 * BIG_BYTES


def test_a_fetch_that_was_cut_goes_on(config: SpeechConfig, uploaded: UploadJob, proxy: FaultProxy) -> None:
    proxy.num_cut = FOREVER
    with pytest.raises(DataError):
        with_local_start(config)
    assert list(own(config).glob("step-*")) == []
    proxy.num_cut = 0
    with_local_start(config)
    assert content(checkpoint_path(own(config), 20)) == content(checkpoint_path(uploaded.checkpoints, 20))


def test_bytes_that_are_always_wrong_make_no_checkpoint(config: SpeechConfig, proxy: FaultProxy) -> None:
    proxy.num_flipped = FOREVER
    with pytest.raises((DataError, CheckpointError), match="damaged"):
        with_local_start(config)
    assert list(own(config).glob("step-*")) == []


def test_a_run_with_checkpoints_goes_on_without_the_server_and_one_without_does_not(
    config: SpeechConfig, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.num_busy = FOREVER
    with pytest.raises(DataError, match=r"failed 2 times.*no checkpoint here"):
        with_local_start(config)
    write_checkpoint(own(config), 5)
    with_local_start(config)
    assert "resumes from its own step 5" in caplog.text


def test_the_address_of_another_run_is_refused_at_the_start(config: SpeechConfig) -> None:
    write_checkpoint(own(config), 5)
    with pytest.raises(CheckpointError, match="another run than"):
        with_local_start(config)


def test_weights_of_an_address_are_a_folder_to_start_from(
    config: SpeechConfig, uploaded: UploadJob, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, upload=UploadConfig(), checkpoint=CheckpointConfig(initial_load_path=f"{PREFIX}/step-30"))
    path = Path(with_local_start(config).checkpoint.initial_load_path)
    assert content(path) == content(checkpoint_path(uploaded.checkpoints, 30))
    assert local_copy(f"{PREFIX}/step-30", config.storage) == path
    assert local_copy(PREFIX, config.storage).name == "step-20"
    write_checkpoint(own(config), 5)
    assert with_local_start(config).checkpoint.initial_load_path == "", "the run's own checkpoint comes first"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (f"{PREFIX}/step-99", "no complete checkpoint step-99.*there are step-10, step-20, step-30"),
        (f"s3://{BUCKET}/nothing", "no complete full checkpoint there"),
        ("s3://no-such-bucket/run", "the bucket does not exist"),
    ],
)
def test_what_is_not_there_is_said(
    storage: StorageConfig, uploaded: UploadJob, place: str, message: str, proxy
) -> None:
    with pytest.raises((CheckpointError, DataError), match=message):
        local_copy(place, storage)


def test_processes_of_a_node_fetch_once(uploaded: UploadJob, tmp_path: Path, proxy: FaultProxy) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: fetch(uploaded.prefix(), "step-20", tmp_path), range(3)))
    assert content(paths[0]) == content(checkpoint_path(uploaded.checkpoints, 20))
    assert proxy.num_bytes < 2.2 * BIG_BYTES
