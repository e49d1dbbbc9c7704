"""Checkpoints of a real run: kept by policy, told by verbs, passed over when damaged; saves that fail are survived."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.support.runs import figures, kill, losses, train, train_well
from tests.support.warm import start_warm
from titan_speech.checkpoint.commit import committed_steps, read_commit
from titan_speech.checkpoint.provenance import read_provenance, source_revision
from titan_speech.checkpoint.retention import pin
from titan_speech.checkpoint.verify import verify
from titan_speech.cli.main import main
from titan_speech.utils.locks import RunLock

POLICY = (
    *("--training.target_tokens", "6144", "--training.global_batch_tokens", "512", "--training.local_batch_packs", "1"),
    *("--checkpoint.cadence.0.every", "2", "--checkpoint.keep_last_full", "2"),
    *("--checkpoint.keep_last_model_only", "1", "--checkpoint.milestone_every_steps", "4"),
    *("--checkpoint.export_milestones", "false"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps, saved every second; step 2 is pinned while it trains, and at step 10 the disk is full."""
    folder = tmp_path_factory.mktemp("run")
    process = start_warm(folder, *POLICY)
    try:
        wait_for_step(folder, 1)
        full_disk(folder / "checkpoint" / "step-10.partial")
        wait_for_step(folder, 4)
        pin(folder / "checkpoint", 2)
        process.wait(1500)
    finally:
        kill(process)
    assert process.returncode == 0, log_of(folder)[-8000:]
    return folder


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 600
    while step not in figures(folder):
        assert time.monotonic() < deadline, log_of(folder)[-8000:]
        time.sleep(0.02)


def full_disk(partial: Path) -> None:
    """Whatever is written into this file finds no space left on its device."""
    partial.mkdir(parents=True)
    (partial / "__0_state_0.distcp").symlink_to("/dev/full")


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text(errors="replace")


def test_training_goes_on_after_a_save_that_found_the_disk_full_and_says_so(run: Path) -> None:
    log = log_of(run)
    assert "the checkpoint of step 10 could not be saved: OSError on rank 0: [Errno 28] No space left on device" in log
    assert "Training continues (1 of at most 3 failures in a row)" in log
    assert sorted(figures(run)) == list(range(1, 13))
    assert not list((run / "checkpoint").glob("*.partial"))


def test_a_run_keeps_what_its_policy_says_and_what_is_pinned(run: Path) -> None:
    folder = run / "checkpoint"
    commits = {step: read_commit(folder / f"step-{step}") for step in committed_steps(folder)}
    assert {step: commit.kind for step, commit in commits.items() if commit} == {
        **dict.fromkeys((2, 4, 8, 12), "full"),
        6: "model",
    }
    assert [commit.reason for commit in commits.values() if commit][-1] == "last step"
    assert all(verify(folder / f"step-{step}", checksums=True).is_sound for step in commits)


def test_each_checkpoint_has_its_configuration_revision_layout_and_tokens_by_stream(run: Path) -> None:
    provenance = read_provenance(run / "checkpoint" / "step-8")
    assert provenance is not None
    assert provenance.step == 8
    assert sum(read.num_tokens for read in provenance.tokens) == 8 * 512
    assert {read.source for read in provenance.tokens} == {"speech", "tts", "text"}
    assert provenance.layout == "replicate 1, shard 1, tensor 1, context 1"
    assert 'description = "small run of the tests"' in provenance.config
    assert provenance.source_revision == source_revision()  # empty where the code is no repository's


def test_the_verbs_tell_what_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["2", "4", "6", "8", "12"]
    assert "pinned" in lines[1]
    assert "milestone" in lines[2]
    assert f"{figures(run)[8]['loss']:.4f}" in lines[4]
    assert main(["checkpoint", "inspect", str(run / "checkpoint" / "step-6")]) == 0
    told = capsys.readouterr().out
    assert "tok_embeddings.weight  [" in told
    assert "optimizer" not in told.split("tensors:")[1]
    assert main(["checkpoint", "diff", str(run / "checkpoint" / "step-4"), str(run / "checkpoint" / "step-8")]) == 0
    told = capsys.readouterr().out
    assert "-  step: 4" in told
    assert "+  step: 8" in told
    assert "seq_len" not in told
    assert main(["checkpoint", "verify", str(run)]) == 0


def test_a_damaged_newest_checkpoint_is_passed_over_and_written_anew_by_the_run_that_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shard = folder / "checkpoint" / "step-12" / "__0_model_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["checkpoint", "verify", str(folder), "--step", "12"]) == 1
    assert "__0_model_0.distcp has other bytes than were written" in capsys.readouterr().out
    again = train_well(folder, *POLICY, start=start_warm)
    assert losses(again) == losses(figures(run))
    log = log_of(folder)[len(log_of(run)) :]
    assert "starts from      step 8 of" in log
    assert "not usable: step 12: damaged: __0_model_0.distcp has other bytes" in log
    assert verify(folder / "checkpoint" / "step-12", checksums=True).is_sound


def test_a_second_job_in_one_folder_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    lock = RunLock.take(tmp_path)
    finished = train(tmp_path, start=start_warm)
    lock.release()
    assert finished.returncode != 0
    assert "is in use by another job" in finished.output
    assert "Traceback" not in finished.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "run.lock"]
