"""Real runs that upload: killed, without their server, on machines without a common disk; nothing of them is lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.runs import (
    ROOT,
    SMALL,
    TIMEOUT_SEC,
    RunProcess,
    assert_close,
    figures,
    kill,
    losses,
    train,
    train_well,
)
from tests.support.s3_server import BUCKET, S3Server, credentials, restartable_server
from tests.support.warm import start_warm
from titan_speech.checkpoint.commit import committed_steps
from titan_speech.checkpoint.upload.job import UploadJob, read_status, status_path
from titan_speech.checkpoint.upload.remote import Prefix
from titan_speech.checkpoint.verify import verify
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.storage.s3 import client_of
from titan_speech.storage.s3_url import S3Url

pytestmark = pytest.mark.slow
CONSTANT_RATE = ("--lr_scheduler.warmup_ratio", "0", "--lr_scheduler.end_lr", "2e-3")
"""So that a run that is told to end earlier takes the same steps up to there."""

SLOWLY = ("--upload.bandwidth_mb_per_sec", "12", "--upload.part_mb", "5.3")


def uploading(server: S3Server, name: str, *more: str) -> tuple[str, ...]:
    return (
        *("--upload.to", f"s3://{BUCKET}/training/{name}", "--storage.endpoint_url", server.endpoint_url),
        *("--storage.num_attempts", "3", *CONSTANT_RATE, *more),
    )


def prefix_of(server: S3Server, name: str) -> Prefix:
    return Prefix(client_of(server.settings(Path("unused"))), S3Url.parse(f"s3://{BUCKET}/training/{name}"))


def wait_for(process: RunProcess, folder: Path, what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SEC
    while not what():
        log = (folder / "log.txt").read_text(errors="replace")
        assert process.poll() is None, log[-8000:]
        assert time.monotonic() < deadline, log[-8000:]
        time.sleep(0.05)


def is_sending(folder: Path) -> bool:
    status = read_status(status_path(folder))
    return status is not None and status.sent_bytes > 5e6


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    """12 steps, without uploads."""
    return losses(train_well(tmp_path_factory.mktemp("uninterrupted"), *CONSTANT_RATE, start=start_warm))


def test_a_run_killed_in_the_middle_of_an_upload_loses_nothing_and_goes_on_on_a_new_machine(
    s3_server: S3Server, tmp_path: Path, uninterrupted: dict[int, dict[str, float]]
) -> None:
    run, prefix = tmp_path / "run", prefix_of(s3_server, "killed")
    process = start_warm(run, *uploading(s3_server, "killed", *SLOWLY))
    try:
        wait_for(process, run, lambda: is_sending(run))
    finally:
        kill(process)
    assert prefix.names() == [], "a checkpoint counts whose upload was killed"
    stopped = train(run, *uploading(s3_server, "killed"), "--training.target_tokens", "10240", start=start_warm)
    assert stopped.returncode == 0, stopped.output[-8000:]
    assert "All checkpoints are at" in stopped.output
    assert prefix.names() == ["step-5", "step-10"]
    shutil.rmtree(run / "checkpoint")
    elsewhere = tmp_path / "elsewhere"
    finished = train(elsewhere, *uploading(s3_server, "killed"), start=start_warm)
    assert finished.returncode == 0, finished.output[-8000:]
    assert "starts from      step 10 of" in finished.output
    found = {**losses(figures(run)), **losses(figures(elsewhere))}
    assert sorted(figures(elsewhere)) == [11, 12]
    assert found == uninterrupted
    assert prefix.names() == ["step-5", "step-10", "step-12"]
    assert verify(elsewhere / "checkpoint" / "step-12", checksums=True).is_sound


def test_training_does_not_notice_that_its_server_dies_and_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[int, dict[str, float]]
) -> None:
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "run"
    with restartable_server(tmp_path / "weed") as server:
        process = start_warm(run, *uploading(server.server, "dies", *SLOWLY))
        try:
            wait_for(process, run, lambda: is_sending(run))
            server.kill()
            wait_for(process, run, lambda: 12 in figures(run))
            assert server.start()
            process.wait(TIMEOUT_SEC)
        finally:
            kill(process)
        output = (run / "log.txt").read_text()
        assert process.returncode == 0, output[-8000:]
        assert losses(figures(run)) == uninterrupted
        assert max(record["upload/num_waiting"] for record in figures(run).values()) >= 1
        assert "All checkpoints are at" in output
        assert prefix_of(server.server, "dies").names() == ["step-5", "step-10", "step-12"]


def test_a_run_that_may_not_wait_says_what_did_not_go_up(s3_server: S3Server, tmp_path: Path) -> None:
    run = tmp_path / "run"
    limits = ("--upload.bandwidth_mb_per_sec", "1", "--upload.finish_sec", "1", "--training.target_tokens", "2048")
    finished = train(run, *uploading(s3_server, "hurry", *limits), start=start_warm)
    assert finished.returncode == 0, finished.output[-8000:]
    assert "NOT everything is at" in finished.output
    assert committed_steps(run / "checkpoint") == [2]
    assert prefix_of(s3_server, "hurry").names() == []


def start_node(folder: Path, node: int, port: int, *overrides: str) -> subprocess.Popen[str]:
    """One of two nodes, with a disk of its own and one process."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--nnodes", "2"),
        *("--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port)),
        *("-m", "titan_speech.train", "--job.config_file", SMALL, "--job.dump_folder", str(folder), *overrides),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


def train_on_two_nodes(folders: list[Path], *overrides: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = [start_node(folder, node, port, *overrides) for node, folder in enumerate(folders)]
    try:
        codes = [node.wait(TIMEOUT_SEC) for node in nodes]
    finally:
        for node in nodes:
            kill(node)
    logs = [(folder / "log.txt").read_text(errors="replace")[-5000:] for folder in folders]
    assert codes == [0, 0], "\n".join(logs)


def test_nodes_without_a_common_disk_send_their_shards_and_any_nodes_go_on(
    s3_server: S3Server, tmp_path: Path, uninterrupted: dict[int, dict[str, float]]
) -> None:
    prefix, options = prefix_of(s3_server, "apart"), uploading(s3_server, "apart")
    first = [tmp_path / "a", tmp_path / "b"]
    train_on_two_nodes(first, *options, "--training.target_tokens", "5120")
    assert prefix.names() == ["step-5"]
    shards = {file.path.split("/")[1] for file in prefix.read("step-5").files if file.path.endswith(".distcp")}
    for node, folder in enumerate(first):
        own = {path.name for path in (folder / "checkpoint" / "step-5").glob("*.distcp")}
        assert own == {name for name in shards if name.startswith(f"__{node}_")}, "each node has its ranks' shards"
        assert not verify(folder / "checkpoint" / "step-5", checksums=False).is_sound
    second = [tmp_path / "b", tmp_path / "c"]  # the nodes come back in another order, and one of them is new
    train_on_two_nodes(second, *options, "--training.target_tokens", "10240")
    assert prefix.names() == ["step-5", "step-10"]
    third = tmp_path / "d"  # and one process is left, on a new machine
    finished = train(third, *options, start=start_warm)
    assert finished.returncode == 0, finished.output[-8000:]
    assert prefix.names() == ["step-5", "step-10", "step-12"]
    found = {**losses(figures(first[0])), **losses(figures(second[0])), **losses(figures(third))}
    assert_close(found, uninterrupted)


def test_a_second_machine_refuses_an_address_that_another_run_has(s3_server: S3Server, tmp_path: Path) -> None:
    short = (*uploading(s3_server, "taken"), "--training.target_tokens", "2048")
    train_well(tmp_path / "one", *short, start=start_warm)
    train_well(tmp_path / "two", "--training.target_tokens", "2048", start=start_warm)
    refused = train(tmp_path / "two", *short, start=start_warm)
    assert refused.returncode != 0
    assert "holds the checkpoints of another run" in refused.output
    record = json.loads((tmp_path / "one" / "upload" / "node-0.json").read_text())
    assert record["complete"] == ["step-2"]
    job = UploadJob(
        tmp_path / "one", tmp_path / "one" / "checkpoint", UploadConfig(to=record["to"]), s3_server.settings(tmp_path)
    )
    assert job.prefix().run_id() == (tmp_path / "one" / "upload" / "run.id").read_text().strip()
