"""Which checkpoint a stage takes over, what it refuses, and what is said when a learning rate would rise."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.config.config_text import BASE, load, problems
from tests.config.conftest import folder  # noqa: F401  (a fixture)
from tests.config.test_budget import budget
from tests.support.s3_server import BUCKET, S3Server
from titan_speech.checkpoint.choose_start import Start
from titan_speech.checkpoint.commit import Checkpoint, Commit, Kind, checkpoint_path, file_record
from titan_speech.checkpoint.folders import partial_path, publish
from titan_speech.checkpoint.initial_load import (
    choose_initial_load,
    learning_rate_rise,
    on_this_machine,
    preview_data,
    schedule_change,
    with_continued_data,
)
from titan_speech.checkpoint.provenance import Provenance, read_provenance
from titan_speech.checkpoint.upload.job import UploadJob
from titan_speech.checkpoint.upload.uploader import UploadPass
from titan_speech.config.budget import Budget
from titan_speech.config.schema import SpeechConfig, StageConfig
from titan_speech.config.schema_operations import CheckpointConfig, UploadConfig
from titan_speech.data.phase_files import write_step
from titan_speech.data.phases import Phase, first_phase
from titan_speech.errors import CheckpointError

PHASE = Phase(label="start", plan="p", seq_len=2, packs_per_step=2, settings={}, streams=())
PROVENANCE = Provenance(vocabulary="v", grammar="g", model="llama3 debug", global_batch_tokens=4)
S1 = budget(num_steps=10, warmup_ratio=0.1, lr=7e-3)  # ends at 1e-3
S2 = budget(num_steps=20, warmup_ratio=0.1, lr=1e-3)


def checkpoint(run: Path, step: int, kind: Kind = "full", plan: Budget | None = S1) -> Path:
    """A committed checkpoint as retention and a copy to another machine know it, with one small file."""
    path = checkpoint_path(run / "checkpoint", step)
    partial_path(path).mkdir(parents=True)
    file = partial_path(path) / "__0_model_0.distcp"
    file.write_bytes(bytes(step))
    replace(PROVENANCE, budget=plan, step=step).write(path)
    files = (file_record(file, file.name, "model"),)
    publish(path, Commit(step, kind, "schedule", 0.0, 1, files))
    return path


def stage(run: Path, **settings) -> SpeechConfig:
    return SpeechConfig(stage=StageConfig(from_=str(run), **{"continue_data": False, **settings}))


def test_a_run_folder_stands_for_its_newest_sound_checkpoint(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (4, 8, 10)]
    handed = choose_initial_load(stage(tmp_path), PROVENANCE, S2)
    assert handed.start.checkpoint == paths[2]
    assert str(handed.start) == f"the weights of the previous stage, {paths[2]}"
    assert (handed.start.is_resume, handed.notes) == (False, ())
    (paths[2] / "__0_model_0.distcp").write_bytes(b"short")
    handed = choose_initial_load(stage(tmp_path), PROVENANCE, S2)
    assert handed.start.checkpoint == paths[1]
    assert handed.start.passed_over[0].startswith("step-10: damaged: __0_model_0.distcp has 5 bytes")


def test_a_checkpoint_may_be_named_and_lie_anywhere(tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path, step) for step in (4, 8)]
    assert choose_initial_load(stage(paths[0]), PROVENANCE, S2).start.checkpoint == paths[0]
    assert choose_initial_load(stage(tmp_path / "checkpoint"), PROVENANCE, S2).start.checkpoint == paths[1]


def test_an_optimizer_is_taken_from_the_newest_checkpoint_that_has_one(tmp_path: Path) -> None:
    full = checkpoint(tmp_path, 4)
    weights = checkpoint(tmp_path, 8, kind="model")
    assert choose_initial_load(stage(tmp_path), PROVENANCE, S2).start.checkpoint == weights
    handed = choose_initial_load(stage(tmp_path, optimizer=True), PROVENANCE, S2)
    assert handed.start.checkpoint == full
    assert handed.start.with_optimizer
    assert str(handed.start).startswith("the weights and the optimizer of the previous stage")
    with pytest.raises(CheckpointError, match=r"step-8: has weights only, stage\.optimizer asks for more"):
        choose_initial_load(stage(weights, optimizer=True), PROVENANCE, S2)


def test_what_is_absent_or_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"stage\.from = '.*nowhere': no complete checkpoint there\. Give the run"
    ):
        choose_initial_load(stage(tmp_path / "nowhere"), PROVENANCE, S2)
    checkpoint(tmp_path, 4)
    with pytest.raises(CheckpointError, match="model: the checkpoint has llama3 debug, this run has qwen3 debug"):
        choose_initial_load(stage(tmp_path), replace(PROVENANCE, model="qwen3 debug"), S2)
    with pytest.raises(
        CheckpointError, match=r"vocabulary: the checkpoint has v, this run has w\. .*tokenizer\.path as"
    ):
        choose_initial_load(stage(tmp_path), replace(PROVENANCE, vocabulary="w"), S2)


def test_data_goes_on_from_the_checkpoint_taken_over_unless_told_otherwise(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 4)
    with pytest.raises(CheckpointError, match=r"set stage\.continue_data = false to read every stream"):
        choose_initial_load(stage(tmp_path, continue_data=True), PROVENANCE, S2)
    config = stage(tmp_path)
    start = choose_initial_load(config, PROVENANCE, S2).start
    assert with_continued_data(config, start) == config
    config = stage(tmp_path, continue_data=True)
    assert with_continued_data(config, start).data.continue_from == str(path)
    other = checkpoint(tmp_path / "other", 2)
    elsewhere = replace(config, data=replace(config.data, continue_from=str(other)))
    assert with_continued_data(elsewhere, start) == elsewhere


def test_data_is_looked_at_from_where_the_stage_before_stands_if_it_is_there(tmp_path: Path) -> None:
    config = stage(tmp_path, continue_data=True)
    assert preview_data(config)[0] == config
    assert "has no checkpoint: streams are shown from their beginning" in preview_data(config)[1]
    path = checkpoint(tmp_path, 4)
    assert preview_data(config)[0].data.continue_from == str(path)
    assert preview_data(SpeechConfig()) == (SpeechConfig(), "")


def test_data_are_continued_from_a_complete_checkpoint_only(tmp_path: Path) -> None:
    unmarked = tmp_path / "checkpoint" / "step-8"
    unmarked.mkdir(parents=True)
    (unmarked / ".metadata").touch()

    def continued(place: Path) -> str:
        config = SpeechConfig()
        config = replace(config, data=replace(config.data, continue_from=str(place)))
        return with_continued_data(config, Start()).data.continue_from

    for place in (tmp_path, unmarked.parent, unmarked):
        with pytest.raises(CheckpointError) as refusal:
            continued(place)
        assert f"data.continue_from = {str(place)!r}: no complete checkpoint there" in str(refusal.value)
        assert f"`titan-speech checkpoint mark {unmarked}` writes the marker" in str(refusal.value)
    with pytest.raises(CheckpointError, match=r"no complete checkpoint there; give a run folder or a checkpoint"):
        continued(tmp_path / "nowhere")
    complete = checkpoint(tmp_path, 4)
    for place in (tmp_path, complete.parent, complete):
        assert continued(place) == str(complete), "a newer folder without a marker does not count"


def test_a_run_at_s3_is_taken_over_from_a_copy_on_this_node(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path / "s1", 4)
    newest = checkpoint(tmp_path / "s1", 8)
    storage, address = s3_server.settings(tmp_path / "cache"), f"s3://{BUCKET}/hand-over"
    UploadPass(UploadJob(tmp_path / "s1", newest.parent, UploadConfig(to=address, keep="all"), storage)).run()
    (tmp_path / "s1").rename(tmp_path / "gone")
    for place, step in ((address, 8), (f"{address}/step-4", 4)):
        config = replace(stage(Path("unused")), storage=storage)
        config = replace(config, stage=replace(config.stage, from_=place))
        start = choose_initial_load(config, PROVENANCE, S2).start
        assert start.checkpoint is not None
        assert (start.checkpoint.name, start.is_from_previous_stage) == (f"step-{step}", True)
        assert start.checkpoint.is_relative_to(tmp_path / "cache")
        monkeypatch.setenv("RANK", "1")
        assert on_this_machine(config, replace(start, checkpoint=Path("of/rank/0") / start.checkpoint.name)) == start
        monkeypatch.setenv("RANK", "0")
        assert on_this_machine(config, start) is start


def test_a_peak_above_the_rate_the_stage_before_ended_with_is_told_with_both_rates(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 10)
    higher = replace(S2, lr=1.5e-3)
    [note] = choose_initial_load(stage(tmp_path), PROVENANCE, higher).notes
    assert "optimizer.lr = 0.0015 is above 0.001, with which the previous stage ended" in note
    assert str(path) in note
    with pytest.raises(CheckpointError, match=r"0\.0015 is above 0\.001(.|\n)*stage\.strict = false"):
        choose_initial_load(stage(tmp_path, strict=True), PROVENANCE, higher)
    choose_initial_load(stage(tmp_path, strict=True), PROVENANCE, replace(S2, lr=1e-3 * (1 + 1e-9)))


def test_a_stage_that_was_cut_short_is_compared_with_the_rate_it_had_reached(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 4)
    rate = S1.learning_rate(3)
    assert learning_rate_rise(replace(S2, lr=rate), S1, Checkpoint.at(path)) == ""
    assert f"is above {rate:g}, with which the previous stage ended (at step 4 of 10)" in learning_rate_rise(
        replace(S2, lr=rate * 1.01), S1, Checkpoint.at(path)
    )
    assert "does not record its learning rate" in learning_rate_rise(S2, None, Checkpoint.at(path))


def test_a_stage_whose_rate_was_lowered_by_breaches_is_compared_with_the_lowered_rate(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 10)
    lowered = replace(PROVENANCE, budget=S1, step=10, rate_factor=0.25)
    lowered.write(path)
    [note] = choose_initial_load(stage(tmp_path), PROVENANCE, S2).notes
    assert "optimizer.lr = 0.001 is above 0.00025, with which the previous stage ended" in note
    assert choose_initial_load(stage(tmp_path), PROVENANCE, replace(S2, lr=2.5e-4)).notes == ()
    for step in range(10):
        assert lowered.trained_budget is not None
        assert lowered.trained_budget.learning_rate(step) == pytest.approx(0.25 * S1.learning_rate(step), rel=1e-12)


def test_a_stage_that_is_not_finished_is_told_of_though_the_rate_drops(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 4)
    [note] = choose_initial_load(stage(tmp_path, strict=True), PROVENANCE, S2).notes
    assert f"{path} is step 4 of 10, where its learning rate was {S1.learning_rate(3):.3g} and not yet 0.001" in note
    [rises, note] = choose_initial_load(stage(tmp_path), PROVENANCE, replace(S2, lr=1.0)).notes
    assert "rises from stage to stage" in rises
    assert "is not finished" in note
    checkpoint(tmp_path, 10)
    assert choose_initial_load(stage(tmp_path), PROVENANCE, S2).notes == ()


def test_a_longer_run_decays_over_its_new_total_and_says_so() -> None:
    longer = replace(S1, num_steps=20, warmup_steps=2)
    note = schedule_change(longer, S1, 10)
    rate = longer.end_lr + (longer.lr - longer.end_lr) * (1 + math.cos(math.pi * (10 - 1) / (19 - 1))) / 2
    assert longer.learning_rate(10) == pytest.approx(rate, rel=1e-12)
    assert f"step 11 has the rate {rate:.3g}, under the old schedule it had {1e-3:.3g}" in note
    assert "10 steps -> 20" in note
    assert "optimizer.lr = 0.001" in note
    assert schedule_change(S1, S1, 10) == schedule_change(S1, None, 10) == ""


STABLE = budget(num_steps=100, warmup_ratio=0.02, lr=7e-3, decay="constant")


def branch(path: Path) -> SpeechConfig:
    return SpeechConfig(stage=StageConfig(from_=str(path), branch=True))


def test_a_branch_begins_at_the_step_of_a_stable_run_with_all_that_a_resume_loads(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 40, plan=STABLE)
    write_step(path, 40, (first_phase(PHASE, None),))
    anneal = budget(num_steps=50, warmup_ratio=0.02, lr=7e-3, decay="linear", decay_ratio=0.2)
    found = choose_initial_load(branch(path), PROVENANCE, anneal)
    assert (found.start.step, found.start.is_resume, found.start.with_optimizer) == (40, True, True)
    assert found.notes == ()
    assert str(found.start) == f"step 40 of {path.parent}, as a branch"
    assert with_continued_data(branch(path), found.start) == branch(path)
    other = replace(PROVENANCE, global_batch_tokens=8)
    with pytest.raises(CheckpointError, match="global_batch_tokens"):
        choose_initial_load(branch(path), other, anneal)


@pytest.mark.parametrize(
    ("anneal", "message"),
    [
        (budget(50, 0.02, "linear", 7e-3, 0.5), "from step 2 to 100; .*decay_ratio to at most 0.2"),
        (budget(50, 0.02, "linear", 8e-3, 0.2), "set optimizer.lr to it"),
        (budget(40, 0.02, "linear", 7e-3, 0.2), "40 steps, and training.target_tokens is that of 40"),
    ],
)
def test_a_branch_whose_schedule_is_another_where_it_begins_is_refused(
    tmp_path: Path, anneal: Budget, message: str
) -> None:
    path = checkpoint(tmp_path, 40, plan=STABLE)
    write_step(path, 40, (first_phase(PHASE, None),))
    with pytest.raises(CheckpointError, match=message):
        choose_initial_load(branch(path), PROVENANCE, anneal)


def test_a_branch_needs_the_optimizer_and_a_stable_rate(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 40, kind="model", plan=STABLE)
    write_step(path, 40, (first_phase(PHASE, None),))
    anneal = budget(num_steps=50, warmup_ratio=0.02, lr=7e-3, decay="linear", decay_ratio=0.2)
    with pytest.raises(CheckpointError, match=r"weights only, stage\.branch asks for more"):
        choose_initial_load(branch(path), PROVENANCE, anneal)
    path = checkpoint(tmp_path / "cosine", 4)
    write_step(path, 4, (first_phase(PHASE, None),))
    with pytest.raises(CheckpointError, match=r"That run is stable at 0\.007 from step 1 to 1"):
        choose_initial_load(branch(path), PROVENANCE, replace(STABLE, decay="linear", decay_ratio=0.2))


def test_a_stable_run_that_is_extended_while_it_is_stable_has_no_jump_to_tell_of() -> None:
    assert schedule_change(replace(STABLE, num_steps=200), STABLE, 100) == ""
    wsd = replace(STABLE, decay="sqrt", end_lr=1e-3, decay_ratio=0.2)
    assert schedule_change(replace(wsd, num_steps=200), wsd, 80) == ""
    assert "100 steps -> 200" in schedule_change(replace(wsd, num_steps=200), wsd, 81)
    old = {key: value for key, value in asdict(S1).items() if key != "decay_ratio"}
    assert Budget.from_record(old) == S1


def test_records_keep_the_schedule_and_what_a_run_came_from(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 4)
    found = read_provenance(path)
    assert found is not None
    assert found.budget == S1
    first = replace(PROVENANCE, initial="models/x", stage_from="s1/step-4")
    assert PROVENANCE.inheriting(first) == first
    assert PROVENANCE.inheriting(None) == PROVENANCE
    other = path.parent / "provenance" / "step-4.json"
    other.write_text(other.read_text().replace('"warmup_steps"', '"warmup"'))
    again = read_provenance(path)
    assert again is not None
    assert again.budget is None  # of another version


@pytest.mark.parametrize(
    ("tables", "key", "expected"),
    [
        ('[stage]\nfrom = "a"\n[checkpoint]\ninitial_load_path = "b"\n', "stage.from", "one of the two keys"),
        (
            '[stage]\nfrom = "a"\n[checkpoint]\nenable = false\n',
            "checkpoint.enable",
            "the checkpointer also loads these weights",
        ),
        ("[stage]\noptimizer = true\n", "stage.optimizer", "stage.from, the stage whose optimizer state is loaded"),
    ],
)
def test_contradictions_of_a_stage_are_told(folder: Path, tables: str, key: str, expected: str) -> None:  # noqa: F811
    [line] = problems(BASE + tables)
    assert key in line
    assert expected in line


def test_a_stage_named_on_the_command_line_keeps_its_defaults(folder: Path) -> None:  # noqa: F811
    assert load(BASE, "--stage.from", "outputs/x").config.stage == StageConfig(from_="outputs/x")
    assert CheckpointConfig().verify_checksums  # a stage is taken over only if its every byte is sound
