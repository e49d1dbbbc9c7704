"""Milestones as Hugging Face folders: written beside training, one at a time, and never in its way."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.hf_folders import Backbone, write_backbone, write_run
from tests.support.runs import losses, train_well
from titan_speech.checkpoint.commit import MARKER, Commit, FileRecord
from titan_speech.checkpoint.lora_base import weights_fingerprint
from titan_speech.checkpoint.retention import RetentionPolicy, pin
from titan_speech.hf.expand import expand
from titan_speech.hf.export_on_save import MilestoneExporter, milestones
from titan_speech.hf.model_card import ModelRecord, read_record
from titan_speech.hf.model_folder import HFFolder
from titan_speech.hf.row_initialization import NewRows
from titan_speech.model.exported_files import MODEL_RECORD_NAME
from titan_speech.utils.files import write_atomically

WHAT_IT_IS = (
    "import os; print(os.nice(0), os.environ['CUDA_VISIBLE_DEVICES'] == '', os.environ['OMP_NUM_THREADS'], "
    "os.getpgid(0) == os.getpid(), 'RANK' in os.environ)"
)


def steps(folder: Path, *numbers: int) -> list[Path]:
    return [folder / "checkpoint" / f"step-{number}" for number in numbers]


def written(checkpoint: Path, output: Path) -> str:
    """A program that writes a folder exported from the weights `checkpoint` has now."""
    record = json.dumps(asdict(ModelRecord(1, "", "", (), weights_fingerprint(checkpoint))))
    return f"import os; os.mkdir('{output}'); open('{output}/{MODEL_RECORD_NAME}', 'w').write('{record}')"


def write_marker(checkpoint: Path, weights: str, optimizer: str | None = None) -> None:
    """A checkpoint's marker, with checksums of a file of weights and perhaps of one of the optimizer."""
    files = [FileRecord("__0_model_0.distcp", 7, weights, "model")]
    files += [FileRecord("__0_state_0.distcp", 7, optimizer, "state")] if optimizer else []
    step = int(checkpoint.name.removeprefix("step-"))
    write_atomically(checkpoint / MARKER, Commit(step, "full", "schedule", 0.0, 1, tuple(files)).to_json())


@pytest.mark.slow
def test_a_complete_milestone_becomes_a_folder_and_a_damaged_one_an_error_that_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_backbone(tmp_path / "base", Backbone())
    expand(tmp_path / "base", tmp_path / "extended", NewRows(), lambda _: None)
    run = write_run(tmp_path / "run", tmp_path / "extended", "llama3")
    exporter = MilestoneExporter(run)
    exporter.add(steps(run, 4, 5))
    assert exporter.waiting_steps == (4, 5)
    exporter.drain()
    assert not exporter.waiting_steps
    HFFolder.open(run / "hf" / "step-5")
    assert read_record(run / "hf" / "step-5").step == 5
    assert sorted(path.name for path in (run / "hf").iterdir()) == ["step-4.log", "step-5", "step-5.log"]
    assert "step 4 could not be exported (exit code 2): titan-speech model export: " in caplog.text
    assert "step-4 is not a complete checkpoint" in caplog.text
    exporter.add(steps(run, 4, 5))  # the next start of the run tries again, this one does not
    assert not exporter.waiting_steps


def test_the_process_has_the_lowest_priority_one_thread_no_gpu_and_is_no_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    wait_for_priority = f"import os, time\nwhile os.nice(0) < 19: time.sleep(0.01)\n{WHAT_IT_IS}"
    exporter = MilestoneExporter(tmp_path, lambda checkpoint, output: [sys.executable, "-c", wait_for_priority])
    exporter.add(steps(tmp_path, 1))
    exporter.drain()
    assert (tmp_path / "hf" / "step-1.log").read_text().split() == ["19", "True", "1", "True", "False"]


def test_milestones_are_written_one_at_a_time_in_their_order(tmp_path: Path) -> None:
    noted = "import sys, time; open('{}', 'a').write('began '); time.sleep(0.2); open('{}', 'a').write('ended ')"
    book = tmp_path / "book"
    exporter = MilestoneExporter(tmp_path, lambda *_: [sys.executable, "-c", noted.format(book, book)])
    exporter.add(steps(tmp_path, 10))
    exporter.add(steps(tmp_path, 20, 30))
    exporter.drain()
    assert book.read_text() == "began ended " * 3


def test_a_program_that_cannot_be_started_is_said_and_the_next_is_tried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = MilestoneExporter(tmp_path, lambda checkpoint, output: [f"/nowhere/{checkpoint.name}"])
    exporter.add(steps(tmp_path, 1, 2))
    exporter.drain()
    assert "step 1 could not be exported" in caplog.text
    assert "step 2 could not be exported" in caplog.text


def test_a_run_that_ends_early_says_what_goes_on_and_leaves_it_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(checkpoint: Path, output: Path) -> list[str]:
        return [sys.executable, "-c", f"import os, time; time.sleep(0.5); os.mkdir('{output}')"]

    exporter = MilestoneExporter(tmp_path, slow)
    exporter.add(steps(tmp_path, 1, 2))
    exporter.cancel_queued()
    assert "milestones of steps 1, 2" in caplog.text
    assert "written when the run is started again" in caplog.text
    exporter.drain()
    assert (tmp_path / "hf" / "step-1").is_dir()
    assert not (tmp_path / "hf" / "step-2").exists()


def test_the_next_start_waits_for_the_process_an_earlier_one_left_and_clears_what_a_killed_one_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(checkpoint: Path, output: Path) -> list[str]:
        return [sys.executable, "-c", f"import time; time.sleep(0.5); {written(checkpoint, output)}; print('once')"]

    earlier, later = MilestoneExporter(tmp_path, slow), MilestoneExporter(tmp_path, slow)
    earlier.add(steps(tmp_path, 1))
    while not (tmp_path / "hf" / "step-1.log").exists():
        time.sleep(0.01)
    later.add(steps(tmp_path, 1))
    later.drain()
    assert (tmp_path / "hf" / "step-1").is_dir()
    assert (tmp_path / "hf" / "step-1.log").read_text() == "once\n"
    (tmp_path / "hf" / "step-2.partial-77").mkdir()
    later.add(steps(tmp_path, 2))
    later.drain()
    assert sorted(path.name for path in (tmp_path / "hf").glob("step-2*")) == ["step-2", "step-2.log"]
    assert "could not" not in caplog.text


def test_a_step_the_run_comes_to_a_second_time_replaces_the_folder_of_the_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def command(checkpoint: Path, output: Path) -> list[str]:
        return [sys.executable, "-c", written(checkpoint, output)]

    (checkpoint,) = steps(tmp_path, 10)
    write_marker(checkpoint, "before", "moments")
    for _ in range(2):
        exporter = MilestoneExporter(tmp_path, command)
        exporter.add([checkpoint])
        exporter.drain()
    before = read_record(tmp_path / "hf" / "step-10").weights
    write_marker(checkpoint, "before")  # retention took the optimizer: the same weights
    MilestoneExporter(tmp_path, command).add([checkpoint])
    assert "exported again" not in caplog.text
    write_marker(checkpoint, "after", "moments")
    exporter = MilestoneExporter(tmp_path, command)
    exporter.add([checkpoint])
    exporter.drain()
    assert "step-10 has weights from before the run was rolled back" in caplog.text
    assert read_record(tmp_path / "hf" / "step-10").weights == weights_fingerprint(checkpoint) != before


def test_milestones_are_the_multiples_and_what_is_pinned(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_atomically(folder / "step-5" / MARKER, Commit(5, "full", "schedule", 0.0, 1, ()).to_json())
    (folder / "step-10").mkdir()  # without a marker it is none
    every_5, every_10, none = (RetentionPolicy(5, 20, milestone_every_steps=n) for n in (5, 10, 0))
    assert milestones(folder, every_5, newest_step=5) == [folder / "step-5"]
    assert not milestones(folder, every_5, newest_step=4), "a course the run went back from"
    assert not milestones(folder, every_10, newest_step=10)
    pin(folder, 5)
    pin(folder, 10)
    assert milestones(folder, none, newest_step=10) == [folder / "step-5"]


@pytest.mark.slow
def test_a_run_leaves_its_milestones_as_folders_and_takes_up_those_that_are_missing(tmp_path: Path) -> None:
    every = ("--checkpoint.milestone_every_steps", "5")
    expected = losses(train_well(tmp_path / "plain", *every, "--checkpoint.export_milestones", "false"))
    assert not (tmp_path / "plain" / "hf").exists()
    assert losses(train_well(tmp_path / "run", *every)) == expected
    folders = [tmp_path / "run" / "hf" / f"step-{step}" for step in (5, 10)]
    assert [read_record(folder).step for folder in folders] == [5, 10]
    assert not (tmp_path / "run" / "hf" / "step-12").exists()
    shutil.rmtree(folders[0])
    train_well(tmp_path / "run", *every, world_size=2)
    assert read_record(folders[0]).step == 5
