"""Checkpoints in object storage: only whole ones count, nothing is sent twice, and what goes away goes in order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkpoint_folders import STATE_BYTES, content, write_checkpoint
from tests.support.fault_proxy import FOREVER, FaultProxy, fault_proxy
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.checkpoint.commit import MARKER, checkpoint_path, read_commit
from titan_speech.checkpoint.folders import discard, lock_for_reading, lock_for_removal, publish
from titan_speech.checkpoint.keeper import stored_checkpoints
from titan_speech.checkpoint.retention import RetentionPolicy, pin
from titan_speech.checkpoint.upload.job import UploadJob, read_status, status_path
from titan_speech.checkpoint.upload.remote import Prefix, remove_stale_objects, stale_objects
from titan_speech.checkpoint.upload.send import LocalCheckpoint, next_to_send
from titan_speech.checkpoint.upload.uploader import UploadPass
from titan_speech.config.schema_operations import UploadConfig
from titan_speech.errors import CheckpointError, DataError
from titan_speech.storage import retry

POLICY = RetentionPolicy(keep_last_full=2, keep_last_model_only=1, milestone_every_steps=100)


@pytest.fixture(scope="module")
def shared_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """One for all tests, since making a client takes longer than most of them."""
    with fault_proxy(s3_server.port) as running:
        yield running


@pytest.fixture(autouse=True)
def proxy(shared_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    monkeypatch.setattr(retry, "FIRST_WAIT_SEC", 0.02)
    shared_proxy.num_busy = shared_proxy.num_sent_bytes = 0
    return shared_proxy


@pytest.fixture
def job(s3_server: S3Server, proxy: FaultProxy, tmp_path: Path, request: pytest.FixtureRequest) -> UploadJob:
    storage = s3_server.settings(Path("unused"), proxy.port, num_attempts=2)
    upload = UploadConfig(to=f"s3://{BUCKET}/runs/{request.node.name}", keep="all")
    run = tmp_path / "run"
    (run / "checkpoint").mkdir(parents=True)
    return UploadJob(run, run / "checkpoint", upload, storage)


def names_at(job: UploadJob) -> list[str]:
    return job.prefix().names()


def objects_of(prefix: Prefix, name: str) -> set[str]:
    return {path for path in prefix.client.list_sizes(prefix.url) if path.startswith(f"{name}/")}


def test_a_checkpoint_counts_when_its_manifest_is_there_which_comes_last(job: UploadJob, proxy: FaultProxy) -> None:
    checkpoint = write_checkpoint(job.checkpoints, 10)
    turn = UploadPass(job)

    def lose_the_network(num_bytes: int) -> None:
        proxy.num_busy = FOREVER

    turn.status.add_sent = lose_the_network
    with pytest.raises(DataError, match="failed 2 times"):
        turn.run()
    proxy.num_busy = 0
    assert objects_of(job.prefix(), "step-10"), "nothing was sent before the network went away"
    assert names_at(job) == []
    UploadPass(job).run()
    assert names_at(job) == ["step-10"]
    sent = job.prefix().read("step-10")
    assert {f.path for f in sent.files} == {
        *(f"step-10/{name}" for name in content(checkpoint)),
        *("provenance/step-10.json", "data_phases/abc.json"),
    }


def test_what_is_there_is_not_sent_again_by_the_next_process(job: UploadJob, proxy: FaultProxy) -> None:
    write_checkpoint(job.checkpoints, 10)
    turn = UploadPass(job)
    turn.status.add_sent = lambda num_bytes: setattr(proxy, "num_busy", FOREVER)
    with pytest.raises(DataError):
        turn.run()
    proxy.num_busy, before = 0, proxy.num_sent_bytes
    UploadPass(job).run()
    assert names_at(job) == ["step-10"]
    assert proxy.num_sent_bytes - before < STATE_BYTES + 30_000, "the first file was sent again"
    again = proxy.num_sent_bytes
    UploadPass(job).run()
    assert proxy.num_sent_bytes - again < 20_000


def test_a_file_with_other_bytes_than_its_marker_says_is_left_out_and_said(job: UploadJob) -> None:
    write_checkpoint(job.checkpoints, 10)
    shard = write_checkpoint(job.checkpoints, 20) / "__0_model_0.distcp"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    turn = UploadPass(job)
    turn.run()
    assert names_at(job) == ["step-10"]
    status = read_status(status_path(job.run))
    assert status is not None
    assert status.waiting == ()
    assert [str(shard) in reason for reason in status.left_out] == [True]
    shard.unlink()
    UploadPass(job).run()
    assert names_at(job) == ["step-10"]


def test_a_checkpoint_that_was_thinned_replaces_the_full_one_there_unless_everything_is_kept(job: UploadJob) -> None:
    checkpoint = write_checkpoint(job.checkpoints, 10)
    UploadPass(job).run()
    thinned = _thinned(checkpoint)
    keeping = UploadPass(job)
    keeping.run()
    assert job.prefix().read("step-10").kind == "full"
    assert not keeping.is_waiting
    turn = UploadPass(replace(job, upload=replace(job.upload, keep="policy")))
    turn.run()
    assert job.prefix().read("step-10").kind == "model"
    assert objects_of(job.prefix(), "step-10") == {f"step-10/{name}" for name in content(thinned)}


def test_a_step_that_was_saved_anew_stops_to_count_before_its_files_are_replaced(
    job: UploadJob, proxy: FaultProxy
) -> None:
    turn = UploadPass(job)
    discard(write_checkpoint(job.checkpoints, 10))
    write_checkpoint(job.checkpoints, 10)
    turn.run()
    discard(checkpoint_path(job.checkpoints, 10))
    anew = write_checkpoint(job.checkpoints, 10, seed=1)
    turn.status.add_sent = lambda num_bytes: setattr(proxy, "num_busy", FOREVER)
    with pytest.raises(DataError):
        turn.run()
    proxy.num_busy = 0
    assert names_at(job) == []
    UploadPass(job).run()
    prefix = job.prefix()
    for name, data in content(anew).items():
        assert prefix.client.read(prefix.url.child(f"step-10/{name}")) == data


def test_the_address_keeps_what_the_policy_and_pins_keep(job: UploadJob) -> None:
    job = replace(job, upload=replace(job.upload, keep="policy"), policy=POLICY)
    turn, before = UploadPass(job), 0
    for step in (10, 20, 30, 40, 50, 100):
        write_checkpoint(job.checkpoints, step)
        if step == 20:
            pin(job.checkpoints, 20)
        turn.run()
        discard(checkpoint_path(job.checkpoints, before))
        before = step
    assert names_at(job) == ["step-20", "step-40", "step-50", "step-100"]
    assert objects_of(job.prefix(), "step-10") == set()
    shared = job.prefix().url.child("data_phases/abc.json")
    assert job.prefix().client.read(shared) == b"of all steps"


def test_without_a_policy_nothing_is_removed(job: UploadJob) -> None:
    job = replace(job, policy=POLICY)
    turn = UploadPass(job)
    for step in range(10, 60, 10):
        write_checkpoint(job.checkpoints, step)
    turn.run()
    assert names_at(job) == [f"step-{step}" for step in range(10, 60, 10)]


def test_only_the_kinds_that_are_wanted_go_up(job: UploadJob) -> None:
    write_checkpoint(job.checkpoints, 10, kind="model")
    write_checkpoint(job.checkpoints, 20)
    UploadPass(replace(job, upload=replace(job.upload, kinds=("full",)))).run()
    assert names_at(job) == ["step-20"]


def test_hugging_face_folders_of_milestones_go_up_and_stay(job: UploadJob, proxy: FaultProxy) -> None:
    job = replace(job, upload=replace(job.upload, keep="policy"), policy=POLICY)
    write_checkpoint(job.checkpoints, 10)
    milestone = job.run / "hf" / "step-10"
    milestone.mkdir(parents=True)
    (milestone / "model.safetensors").write_bytes(bytes(50_000))
    (milestone / "README.md").write_text("card")
    (milestone / "titan_speech.json").write_text('{"weights": "a"}')
    (job.run / "hf" / "step-20.partial").mkdir()
    turn = UploadPass(job)
    turn.run()
    assert names_at(job) == ["hf-10", "step-10"]
    files = {"README.md", "model.safetensors", "titan_speech.json"}
    assert objects_of(job.prefix(), "hf-10") == {f"hf-10/{name}" for name in files}
    before = proxy.num_sent_bytes
    (milestone / "README.md").write_text("card with results")
    turn.run()
    assert not turn.is_waiting
    assert proxy.num_sent_bytes - before < 30_000, "the weights were sent again"
    assert job.prefix().client.read(job.prefix().url.child("hf-10/README.md")) == b"card with results"
    (milestone / "titan_speech.json").write_text('{"weights": "b"}')  # the run came to the step a second time
    turn.run()
    assert job.prefix().client.read(job.prefix().url.child("hf-10/titan_speech.json")) == b'{"weights": "b"}'


def test_of_a_milestone_only_the_files_of_the_export_go_up_and_links_are_not_followed(
    job: UploadJob, caplog: pytest.LogCaptureFixture
) -> None:
    (job.run / "secret").write_text("token")
    for step in (10, 20):
        milestone = job.run / "hf" / f"step-{step}"
        milestone.mkdir(parents=True)
        (milestone / "model.safetensors").write_bytes(bytes(100))
        (milestone / "titan_speech.json").write_text('{"weights": "a"}')
    (job.run / "hf" / "step-10" / ".env").write_text("AWS_SECRET_ACCESS_KEY=1")
    (job.run / "hf" / "step-10" / "notes.md").symlink_to(job.run / "secret")
    (job.run / "hf" / "step-20" / "README.md").symlink_to(job.run / "secret")
    (job.run / "hf" / "step-30").symlink_to(job.run / "hf" / "step-10")
    UploadPass(job).run()
    assert names_at(job) == ["hf-10"]
    assert objects_of(job.prefix(), "hf-10") == {"hf-10/model.safetensors", "hf-10/titan_speech.json"}
    assert "step-10: not uploaded, as no export has such files: .env, notes.md" in caplog.text
    assert "step-20 is not uploaded: not a regular file: README.md" in caplog.text
    assert "step-30 is not uploaded: it is a symbolic link" in caplog.text


def test_what_a_stopped_upload_left_is_removed_when_its_checkpoint_is_gone_and_it_is_old(job: UploadJob) -> None:
    prefix = job.prefix()
    write_checkpoint(job.checkpoints, 10)
    UploadPass(job).run()
    rolled_back = write_checkpoint(job.checkpoints, 20)
    UploadPass(job).run()
    discard(rolled_back)
    prefix.retire("step-20")
    for path in ("step-30/__0_model_0.distcp", "provenance/step-30.json", "step-40/.metadata"):
        prefix.put(path, b"of an upload that was killed")
    shard = prefix.url.child("step-30/__0_state_0.distcp")
    prefix.client.upload_part(shard, prefix.client.create_multipart(shard, "0" * 64), 1, b"a part")
    assert [str(one) for one in stale_objects(prefix)] == [
        "step-30 (2 objects, 0.0 MB, 1 unfinished uploads)",
        "step-40 (1 object, 0.0 MB)",
    ]
    before = prefix.client.list_sizes(prefix.url)
    UploadPass(job).run()
    assert prefix.client.list_sizes(prefix.url) == before, "they may be on their way from another node"
    assert remove_stale_objects(prefix, {"step-10", "step-40"}, older_than_sec=-60) == ["step-30"]
    assert before.keys() - prefix.client.list_sizes(prefix.url) == {
        "step-30/__0_model_0.distcp",
        "provenance/step-30.json",
    }
    assert [one.name for one in stale_objects(prefix)] == ["step-40"]


def test_two_runs_never_share_an_address(job: UploadJob, tmp_path: Path) -> None:
    write_checkpoint(job.checkpoints, 10)
    UploadPass(job).run()
    other = replace(job, run=tmp_path / "other", checkpoints=tmp_path / "other" / "checkpoint")
    UploadPass(other).run()  # a new machine that has nothing yet goes on with the run
    shutil.rmtree(other.run)
    write_checkpoint(other.checkpoints, 20, seed=1)
    with pytest.raises(CheckpointError, match="another run than"):
        UploadPass(other).run()
    assert names_at(job) == ["step-10"]


def test_nodes_that_share_no_disk_send_their_own_files_and_node_0_completes(job: UploadJob, tmp_path: Path) -> None:
    """As a save leaves it: each node has its ranks' files and the marker of all, node 0 the index too."""
    first = replace(job, num_nodes=2)
    second = replace(first, node=1, run=tmp_path / "second", checkpoints=tmp_path / "second" / "checkpoint")
    whole = write_checkpoint(job.checkpoints, 10, num_ranks=2)
    mine = checkpoint_path(second.checkpoints, 10)
    mine.mkdir(parents=True)
    for name in ("__1_model_0.distcp", "__1_state_0.distcp"):
        (whole / name).rename(mine / name)
    shutil.copy(whole / MARKER, mine / MARKER)
    turns = [UploadPass(first), UploadPass(second)]
    turns[0].run()
    assert names_at(job) == []
    assert turns[0].status.status.in_use == ("step-10",)
    turns[1].run()
    assert names_at(job) == []
    turns[0].run()
    assert names_at(job) == ["step-10"]
    turns[1].run()
    assert [turn.is_waiting for turn in turns] == [False, False]
    UploadPass(replace(second, node=0, num_nodes=1)).run()  # the other node is gone, and this one is the first now
    assert names_at(job) == ["step-10"]
    assert len(job.prefix().read("step-10").files) == len(whole_files(whole)) + len(whole_files(mine)) - 1 + 2


def test_what_every_node_thinned_for_itself_is_complete_as_weights(job: UploadJob, tmp_path: Path) -> None:
    first = replace(job, num_nodes=2, upload=replace(job.upload, keep="policy"))
    second = replace(first, node=1, run=tmp_path / "second", checkpoints=tmp_path / "second" / "checkpoint")
    whole = write_checkpoint(job.checkpoints, 10, num_ranks=2)
    mine = checkpoint_path(second.checkpoints, 10)
    mine.mkdir(parents=True)
    for name in ("__1_model_0.distcp", "__1_state_0.distcp"):
        (whole / name).rename(mine / name)
    shutil.copy(whole / MARKER, mine / MARKER)
    turns = [UploadPass(first), UploadPass(second)]
    for turn in (turns[1], turns[0], turns[1]):
        turn.run()
    assert [turn.is_waiting for turn in turns] == [False, False]
    for checkpoint in (mine, whole):
        _thinned(checkpoint)
    turns[1].run()
    assert job.prefix().read("step-10").kind == "full", "only node 0 ends what is complete"
    for turn in turns:
        turn.run()
    assert [turn.is_waiting for turn in turns] == [False, False]
    assert {path for path in objects_of(job.prefix(), "step-10") if "_state_" in path} == set()
    assert job.prefix().read("step-10").kind == "model"


def test_retention_counts_a_node_s_part_of_a_checkpoint_where_disks_are_not_shared(tmp_path: Path) -> None:
    for step in (10, 20):
        (write_checkpoint(tmp_path, step, num_ranks=2) / "__1_model_0.distcp").unlink()
    assert [kept.is_sound for kept in stored_checkpoints(tmp_path)] == [False, False]
    (checkpoint_path(tmp_path, 20) / "__0_model_0.distcp").write_bytes(b"cut")
    assert [kept.is_sound for kept in stored_checkpoints(tmp_path, has_all_files=False)] == [True, False]


def whole_files(checkpoint: Path) -> list[str]:
    return list(content(checkpoint))


def test_a_lease_keeps_retention_away_until_the_upload_ends(job: UploadJob, proxy: FaultProxy) -> None:
    checkpoint = write_checkpoint(job.checkpoints, 10)
    found = []
    turn = UploadPass(job)

    def look(num_bytes: int) -> None:
        with lock_for_removal(checkpoint) as is_free:
            found.append(is_free)

    turn.status.add_sent = look
    turn.run()
    assert found
    assert not any(found)
    with lock_for_removal(checkpoint) as is_free:
        assert is_free
        with lock_for_reading(checkpoint) as is_there:
            assert not is_there
    discard(checkpoint)
    with lock_for_reading(checkpoint) as is_there:
        assert not is_there


def test_an_upload_that_finds_retention_at_work_waits_for_its_next_turn(job: UploadJob) -> None:
    checkpoint = write_checkpoint(job.checkpoints, 10)
    turn = UploadPass(job)
    with lock_for_removal(checkpoint):
        turn.run()
    assert names_at(job) == []
    turn.run()
    assert names_at(job) == ["step-10"]


def test_a_job_goes_to_the_process_and_comes_out_the_same(job: UploadJob) -> None:
    job = replace(job, policy=POLICY, node=3, num_nodes=4)
    assert UploadJob.from_json(job.to_json()) == job


def test_a_damaged_manifest_makes_nothing_complete_and_is_written_again(job: UploadJob, s3_server: S3Server) -> None:
    write_checkpoint(job.checkpoints, 10)
    UploadPass(job).run()
    prefix = job.prefix()
    manifest = prefix.url.child("complete/step-10.json")
    s3_server.client().put_object(Bucket=BUCKET, Key=manifest.key, Body=prefix.client.read(manifest)[:-40])
    with pytest.raises(CheckpointError, match="is damaged"):
        prefix.read("step-10")
    UploadPass(job).run()
    assert prefix.read("step-10").step == 10


@settings(max_examples=40)
@given(
    steps=st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["full", "model"])), unique_by=lambda one: one[0]),
    sent_step=st.integers(-1, 9),
    begun=st.integers(0, 9),
)
def test_what_was_begun_comes_first_then_the_newest_full_one_then_the_oldest(steps, sent_step: int, begun: int) -> None:
    waiting = [
        LocalCheckpoint(Path(f"step-{step}"), f"step-{step}", step, kind, 0.0, (), str(step)) for step, kind in steps
    ]
    chosen = next_to_send(waiting, sent_step, f"step-{begun}")
    full = [step for step, kind in steps if kind == "full"]
    if not waiting:
        assert chosen is None
    elif begun in dict(steps):
        assert chosen is not None
        assert chosen.step == begun
    elif full and max(full) > sent_step:
        assert chosen is not None
        assert chosen.step == max(full)
    else:
        assert chosen is not None
        assert chosen.step == min(dict(steps))


def _thinned(checkpoint: Path) -> Path:
    """As retention does it: weights, an index of them, a marker of kind model."""
    commit = read_commit(checkpoint)
    assert commit is not None
    partial = checkpoint.with_name(f"{checkpoint.name}.partial")
    partial.mkdir()
    kept = [file for file in commit.files if file.role != "state"]
    for file in kept:
        if file.role != "beside" and file.path(checkpoint).exists():
            shutil.copy(file.path(checkpoint), partial / file.name)
    kept = [file for file in kept if file.role != "index" or file.path(checkpoint).exists()]
    publish(checkpoint, replace(commit, kind="model", files=tuple(kept)))
    return checkpoint
