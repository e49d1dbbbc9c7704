"""The uploading process: killed, cut off or left alone in the middle of an upload, it ends with all in its place."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.checkpoint_folders import content, write_checkpoint
from tests.support.s3_server import BUCKET, S3Server, credentials, restartable_server
from titan_speech.checkpoint.commit import checkpoint_path
from titan_speech.checkpoint.folders import discard
from titan_speech.checkpoint.upload.job import UploadJob, read_status, status_path
from titan_speech.checkpoint.upload.process import Uploader
from titan_speech.checkpoint.upload.transfer import fetch
from titan_speech.config.schema_operations import UploadConfig

BIG_BYTES, SLOW_MB_PER_SEC = 16 << 20, 6.0
PATIENCE_SEC = 60


def new_job(server: S3Server, folder: Path, name: str) -> UploadJob:
    """16 MB at 6 MB/s, in parts of 5.3 MB: long enough to be disturbed."""
    upload = UploadConfig(
        to=f"s3://{BUCKET}/uploader/{name}", part_mb=5.3, bandwidth_mb_per_sec=SLOW_MB_PER_SEC, num_connections=2
    )
    run = folder / "run"
    (run / "checkpoint").mkdir(parents=True)
    return UploadJob(run, run / "checkpoint", upload, server.settings(Path("unused"), num_attempts=2))


@pytest.fixture
def job(s3_server: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> UploadJob:
    return new_job(s3_server, tmp_path, request.node.name)


@pytest.fixture
def uploader(job: UploadJob) -> Iterator[Uploader]:
    running = Uploader(job)
    yield running
    running.close()


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begun(job: UploadJob) -> bool:
    status = read_status(status_path(job.run))
    return status is not None and status.sent_bytes > 1 << 20


def pid_of(uploader: Uploader) -> int:
    return uploader._process.pid


def test_a_killed_upload_goes_on_where_it_stopped(job: UploadJob, uploader: Uploader, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(job.checkpoints, 10, model_bytes=BIG_BYTES)
    wait_until(lambda: begun(job))
    os.kill(pid_of(uploader), signal.SIGKILL)
    prefix = job.prefix()
    assert prefix.names() == []
    shard = prefix.url.child("step-10/__0_model_0.distcp")
    parts = [prefix.client.list_parts(shard, upload) for upload in prefix.client.unfinished_uploads_of(shard)]
    assert sum(map(len, parts)) >= 1
    again = Uploader(replace(job, upload=replace(job.upload, bandwidth_mb_per_sec=0.0)))
    assert again.finish(PATIENCE_SEC).text == f"All checkpoints are at {job.upload.to}."
    assert again.figures()["upload/num_waiting"] == 0
    assert content(fetch(prefix, "step-10", tmp_path / "back")) == content(checkpoint)
    assert prefix.client.unfinished_uploads_of(shard) == []


def test_signals_of_a_scheduler_are_training_s_to_answer(job: UploadJob, uploader: Uploader) -> None:
    wait_until(status_path(job.run).exists)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(pid_of(uploader), number)
    write_checkpoint(job.checkpoints, 10)
    assert uploader.finish(PATIENCE_SEC).is_all


def test_an_end_that_may_not_wait_says_what_is_left(job: UploadJob, uploader: Uploader) -> None:
    write_checkpoint(job.checkpoints, 10, model_bytes=BIG_BYTES)
    wait_until(lambda: begun(job))
    figures = uploader.figures()
    assert figures["upload/num_waiting"] == 1
    assert 0 < figures["upload/waiting_bytes"] < BIG_BYTES
    assert figures["upload/oldest_age_sec"] > 0
    said = uploader.finish(0.0).text
    assert said.startswith(f"NOT everything is at {job.upload.to}: step-10 left")
    assert job.prefix().names() == []


def test_an_uploader_ends_with_the_process_that_started_it(job: UploadJob) -> None:
    program = (
        "import sys\nfrom titan_speech.checkpoint.upload.job import UploadJob\n"
        "from titan_speech.checkpoint.upload.process import Uploader\n"
        "print(Uploader(UploadJob.from_json(sys.argv[1]))._process.pid, flush=True)\nsys.stdin.read()\n"
    )
    trainer = subprocess.Popen(
        [sys.executable, "-c", program, job.to_json()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    process_id = int(trainer.stdout.readline())
    trainer.kill()
    trainer.communicate()
    wait_until(lambda: not _runs(process_id))


def _runs(process_id: int) -> bool:
    try:
        return "upload.uploader" in Path(f"/proc/{process_id}/cmdline").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_of_an_upload_and_returns_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    with restartable_server(tmp_path / "weed") as server:
        job = new_job(server.server, tmp_path, "dies")
        uploader = Uploader(job)
        checkpoint = write_checkpoint(job.checkpoints, 10, model_bytes=BIG_BYTES)
        wait_until(lambda: begun(job))
        server.kill()
        wait_until(lambda: uploader.figures()["upload/num_failures"] > 0)
        write_checkpoint(job.checkpoints, 20)
        wait_until(lambda: uploader.figures()["upload/num_waiting"] == 2)
        assert "failed 2 times" in uploader.status.last_error
        assert server.start()
        assert uploader.finish(PATIENCE_SEC).text == f"All checkpoints are at {job.upload.to}."
        assert job.prefix().names() == ["step-10", "step-20"]
        assert content(fetch(job.prefix(), "step-10", tmp_path / "back")) == content(checkpoint)


@pytest.mark.slow
def test_kills_at_random_instants_never_make_anything_wrong_complete(job: UploadJob, tmp_path: Path) -> None:
    """Checkpoints come and are saved anew meanwhile; after each kill whatever counts is fetched and compared."""
    draw, prefix = random.Random(0), job.prefix()
    job = replace(job, upload=replace(job.upload, bandwidth_mb_per_sec=30.0, keep="all"))
    expected: dict[str, list[dict[str, bytes]]] = {}
    num_complete, num_waiting = [], []
    for kill in range(20):
        step = draw.choice((10, 20, 30, 40))
        discard(checkpoint_path(job.checkpoints, step))
        checkpoint = write_checkpoint(job.checkpoints, step, seed=kill, model_bytes=draw.choice((1 << 20, 12 << 20)))
        expected.setdefault(checkpoint.name, []).append(content(checkpoint))
        status_path(job.run).unlink(missing_ok=True)
        uploader = Uploader(job)
        wait_until(status_path(job.run).exists)
        if draw.random() < 0.6:
            wait_until(lambda uploader=uploader: bool(uploader.status.sending or uploader.status.complete))
            time.sleep(draw.uniform(0.0, 0.4))
        else:
            time.sleep(draw.uniform(0.0, 2.5))
        os.kill(pid_of(uploader), signal.SIGKILL)
        uploader.close()
        num_complete.append(len(prefix.names()))
        num_waiting.append(len(uploader.status.waiting))
        for name in prefix.names():
            back = tmp_path / f"back-{kill}"
            assert content(fetch(prefix, name, back)) in expected[name]
            shutil.rmtree(back)
    assert Uploader(job).finish(PATIENCE_SEC).is_all
    for name in prefix.names():
        assert content(fetch(prefix, name, tmp_path / "end")) == expected[name][-1]
    assert len(prefix.names()) == len(expected)
    assert sum(num_complete) > 0, "every kill came too early"
    assert any(num_waiting), "every kill came too late"
    print(f"20 kills, {sum(map(bool, num_waiting))} of them in the middle; complete after each: {num_complete}")


def test_an_uploader_that_was_closed_is_not_started_again(job: UploadJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titan_speech.checkpoint.upload.process.RESTART_SEC", 0.0)
    uploader = Uploader(job)
    uploader.close()
    ended = pid_of(uploader)
    uploader.figures()
    assert pid_of(uploader) == ended


@pytest.mark.slow
def test_an_uploader_that_dies_is_started_again(job: UploadJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titan_speech.checkpoint.upload.process.RESTART_SEC", 0.0)
    uploader = Uploader(job)
    os.kill(pid_of(uploader), signal.SIGKILL)
    uploader._process.wait()
    write_checkpoint(job.checkpoints, 10)
    uploader.figures()
    assert uploader.finish(PATIENCE_SEC).text == f"All checkpoints are at {job.upload.to}."


@pytest.mark.slow
def test_memory_stays_at_parts_whatever_the_size_of_a_checkpoint(job: UploadJob) -> None:
    uploader = Uploader(replace(job, upload=replace(job.upload, bandwidth_mb_per_sec=0.0)))
    wait_until(lambda: read_status(status_path(job.run)) is not None)
    before = _peak_bytes(pid_of(uploader))
    write_checkpoint(job.checkpoints, 10, model_bytes=200 << 20)
    wait_until(lambda: uploader.status.complete == ("step-10",))
    assert _peak_bytes(pid_of(uploader)) - before < 80 << 20
    uploader.close()


def _peak_bytes(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10
