"""A checkpoint is resumed at any number of processes and in any layout; what one rank meets, all ranks do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import assert_close, figures, kill, losses, start_run, train_and_kill_after, train_well
from tests.support.warm import start_warm
from titan_speech.checkpoint.commit import committed_steps, read_commit
from titan_speech.checkpoint.provenance import read_provenance

pytestmark = pytest.mark.slow

TENSOR = ("--parallelism.tensor_parallel_degree", "2")
REPLICATED = ("--parallelism.data_parallel_replicate_degree", "2", "--parallelism.data_parallel_shard_degree", "1")
LAYOUTS = {
    "sharded on two, then tensor parallel": ((2, ()), (2, TENSOR)),
    "tensor parallel, then one process": ((2, TENSOR), (1, ())),
    "two processes, then three": ((2, ()), (3, ())),
    "three processes, then replicas on two": ((3, ()), (2, REPLICATED)),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    return train_well(tmp_path_factory.mktemp("straight"), start=start_warm)


@pytest.mark.parametrize("name", LAYOUTS)
def test_resumed_in_another_layout_a_run_ends_as_one_that_was_not_interrupted(
    uninterrupted: dict[int, dict], tmp_path: Path, name: str
) -> None:
    (before, flags_before), (after, flags_after) = LAYOUTS[name]
    train_and_kill_after(tmp_path, 6, *flags_before, world_size=before, start=start_warm)
    resumed = train_well(tmp_path, *flags_after, world_size=after, start=start_warm)
    assert_close(losses(resumed), losses(uninterrupted))
    assert [resumed[step]["tokens_seen"] for step in resumed] == [step * 1024 for step in resumed]
    provenance = read_provenance(tmp_path / "checkpoint" / "step-12")
    assert provenance is not None
    assert provenance.world_size == after
    assert sum(read.num_tokens for read in provenance.tokens) == 12 * 1024


def test_a_clock_of_rank_0_and_a_full_disk_of_rank_1_are_known_to_both(tmp_path: Path) -> None:
    process = start_run(
        tmp_path, "--checkpoint.at_least_every_minutes", "0.0001", "--checkpoint.cadence.0.every", "100", world_size=2
    )
    try:
        while 1 not in figures(tmp_path):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()[-8000:]
        partial = tmp_path / "checkpoint" / "step-9.partial"
        partial.mkdir(parents=True)
        (partial / "__1_model_0.distcp").symlink_to("/dev/full")
        process.wait(1500)
    finally:
        kill(process)
    log = (tmp_path / "log.txt").read_text(errors="replace")
    assert process.returncode == 0, log[-8000:]
    assert "the checkpoint of step 9 could not be saved: OSError on rank 1: [Errno 28]" in log
    commits = [
        read_commit(tmp_path / "checkpoint" / f"step-{step}") for step in committed_steps(tmp_path / "checkpoint")
    ]
    assert {commit.reason for commit in commits if commit} == {"wall time", "last step"}
    assert 9 not in {commit.step for commit in commits if commit}
    assert len({file.name for file in commits[-1].files if file.role == "model"}) == 2  # pyright: ignore
